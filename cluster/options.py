"""The options of the task commands, each written once, and the job that they amount to."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from model.errors import GemmarayError
from model.params import Quantization, named_paths

from .engine_options import MODEL, Adapter, ComputeIn, ComputeOn, Revision, option

STANDARD_STREAM = "-"
LINE = "line"  # what the only column of standard input is called
RESOURCES = ("replicas", "tensor_parallel", "dtype", "quantization", "device", "max_model_len")
PARQUET_ONLY = (
    "prompt_column",
    "messages_column",
    "system",
    "keep",
    "adapters",
    "adapter_column",
    "limit",
    "unit_rows",
    "max_error_rate",
    "on_bad_file",
    "s3_endpoint",
    "s3_profile",
    "s3_anonymous",
    "replicas",
)


class UsageError(GemmarayError):
    """Options that contradict each other."""


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and answers only.")]
Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="Join this Ray cluster. Otherwise the job gets a Ray of its own on this machine.",
    ),
]

MAX_ERROR_RATE = (
    "Stop when more than this share of the rows fails, 0 to 1; what is committed stays. Checked "
    "once 1,000 rows are done, or all of a smaller job."
)


_prompt = functools.partial(option, panel="Prompts")
_output = functools.partial(option, panel="Output")
_model = functools.partial(option, panel=MODEL)
_s3 = functools.partial(option, panel="S3")
_sampling = functools.partial(option, panel="Sampling")
_form = functools.partial(option, panel="Form of the answer")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where prompts come from and answers go."""

    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A Parquet or JSON lines file, a folder or a glob, local or s3://; or - for "
            "prompts on standard input, one per line.",
        ),
    ]
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help="A folder, local or s3://; - (standard output) when INPUT is -.",
        ),
    ] = STANDARD_STREAM

    @property
    def is_stream(self) -> bool:
        """Whether prompts come on standard input.

        Raises:
            UsageError: only one of the two is a standard stream.
        """
        streams = [self.input == STANDARD_STREAM, self.output == STANDARD_STREAM]
        if any(streams) and not all(streams):
            raise UsageError(
                "standard input goes with standard output (gemmaray generate - - ...), and Parquet "
                f"with an output folder; got INPUT {self.input} and OUTPUT {self.output}"
            )
        return all(streams)


@dataclasses.dataclass(frozen=True, kw_only=True)
class S3Options:
    """How S3 is reached."""

    s3_endpoint: Annotated[
        str | None,
        _s3("Of a store that is not Amazon's.", default="AWS_ENDPOINT_URL", metavar="URL"),
    ] = None
    s3_profile: Annotated[
        str | None,
        _s3("Of the AWS configuration files.", default="AWS_PROFILE", metavar="NAME"),
    ] = None
    s3_anonymous: Annotated[
        bool | None,
        _s3("Send no credentials: for buckets that everybody may read.", "--s3-anonymous"),
    ] = None

    def s3_values(self) -> dict[str, Any]:
        """Give what the user set, under the names of S3Settings."""
        return given(
            {
                "endpoint": self.s3_endpoint,
                "profile": self.s3_profile,
                "anonymous": self.s3_anonymous,
            }
        )


@dataclasses.dataclass(frozen=True)
class JobOptions(S3Options):
    """What all tasks have in common."""

    model: Annotated[
        str,
        typer.Option(
            help="A checkpoint folder, a Hugging Face id, or s3://bucket/prefix.",
            rich_help_panel=MODEL,
        ),
    ]
    revision: Revision = None
    adapter: Adapter = None
    adapters: Annotated[
        str | None,
        _model("LoRA adapters to choose from by row.", metavar="NAME=FOLDER,..."),
    ] = None
    adapter_column: Annotated[
        str | None,
        _model("The text column that names each row's adapter.", metavar="COLUMN"),
    ] = None
    prompt_column: Annotated[
        str | None, _prompt("The text column that holds the prompt.", metavar="COLUMN")
    ] = None
    messages_column: Annotated[
        str | None, _prompt("The column of chat messages (role, content).", metavar="COLUMN")
    ] = None
    prompt: Annotated[
        str | None,
        _prompt(
            "The prompt, with columns in braces, as in: Summarise {body}. A line of standard "
            "input is {line}.",
            metavar="TEMPLATE",
        ),
    ] = None
    chat: Annotated[
        bool | None,
        _prompt(
            "Put the prompt into a user turn of the chat template, or take it as it is.",
            "--chat/--raw",
            default="chat where the model has a template",
        ),
    ] = None
    system: Annotated[
        Literal["reject", "fold"] | None,
        _prompt(
            "A system message makes an error row, or goes before the first user message.",
            default="reject",
        ),
    ] = None
    keep: Annotated[
        str | None,
        _output("Input columns to copy to the output.", default="all", metavar="A,B,..."),
    ] = None
    limit: Annotated[int | None, _output("Only this many rows, from the start.")] = None
    unit_rows: Annotated[
        int | None, _output("Rows that are committed together.", default="by the size of the job")
    ] = None
    max_error_rate: Annotated[
        float | None,
        _output(MAX_ERROR_RATE, default="0.5 from 1,000 rows on"),
    ] = None
    on_bad_file: Annotated[
        Literal["fail", "quarantine"] | None,
        _output("Refuse a job with damaged input files, or leave them out.", default="fail"),
    ] = None
    replicas: Annotated[
        str | None,
        _model(
            "Engines side by side.", default="one per GPU group or machine", metavar="N|MIN..MAX"
        ),
    ] = None
    tensor_parallel: Annotated[
        int | None, _model("GPUs (or processes) that share one engine.", default="1")
    ] = None
    # Not a choice of these: float16 gets the job's own answer, which says why it is refused.
    dtype: ComputeIn = None
    quantization: Annotated[
        Quantization | None,
        _model(
            "The layers' weights in eight or four bits; see docs/quantization.md.", default="none"
        ),
    ] = None
    device: ComputeOn = None
    max_model_len: Annotated[
        int | None,
        _model("Longest prompt plus answer, in tokens.", default="what the model allows"),
    ] = None
    address: Address = None
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="On standard output: one JSON object for each prompt.",
            rich_help_panel="Output",
        ),
    ] = False
    quiet: Quiet = False


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How answers are drawn; named as in SamplingParams."""

    max_tokens: Annotated[int | None, _sampling("Tokens of an answer at most.", default="128")] = (
        None
    )
    temperature: Annotated[
        float | None, _sampling("0 always takes the likeliest token.", default="0.0")
    ] = None
    top_p: Annotated[
        float | None, _sampling("Draw from the likeliest tokens that hold this much.", default="1")
    ] = None
    top_k: Annotated[
        int | None, _sampling("Draw from this many likeliest tokens.", default="all")
    ] = None
    seed: Annotated[
        int | None, _sampling("Fixes what is drawn for each row.", default="drawn once for the job")
    ] = None
    stop: Annotated[
        list[str] | None,
        _sampling("Text that ends an answer; may be given many times.", metavar="TEXT"),
    ] = None
    ignore_eos: Annotated[
        bool | None,
        _sampling("Go on past the end tokens, up to --max-tokens.", "--ignore-eos"),
    ] = None
    json_schema: Annotated[
        Path | None,
        _form("The answer is JSON that the schema in this file allows.", metavar="FILE"),
    ] = None
    json_object: Annotated[bool | None, _form("The answer is a JSON object.", "--json-object")] = (
        None
    )
    regex: Annotated[
        str | None,
        _form("The answer matches this, from its beginning to its end.", metavar="EXPRESSION"),
    ] = None
    choice: Annotated[
        list[str] | None,
        _form("The answer is this text, or that of another --choice.", metavar="TEXT"),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Give what the user set, under the names of SamplingParams.

        Raises:
            UsageError: the file with the schema can't be read.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.json_schema is not None:
            values["json_schema"] = _text_of(self.json_schema)
        return given(values)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Drop what the user left out, so that the job's own defaults hold."""
    return {name: value for name, value in values.items() if value not in (None, [])}


def job_values(
    place: Place, options: JobOptions, tasks: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    """Write the job that the options amount to, as a job file would.

    Args:
        place: where prompts come from and answers go.
        options: what all tasks have in common.
        tasks: the task, with its settings.
        settings: what else this task's command sets of the job.

    Raises:
        UsageError: options that contradict each other.
    """
    column = options.prompt_column
    if place.is_stream:
        _refuse_in_stream(options)
        column = None if options.prompt else LINE
    elif options.jsonl:
        raise UsageError("--jsonl goes with standard input and output; a job writes Parquet")
    else:
        _need_one_prompt(options)
    return given(
        {
            "input": place.input,
            "output": place.output,
            "model": options.model,
            "revision": options.revision,
            "adapter": options.adapter,
            "adapters": named_paths(options.adapters) if options.adapters else None,
            "adapter_column": options.adapter_column,
            "prompt": options.prompt,
            "prompt_column": column,
            "messages": options.messages_column,
            "chat": None if options.chat is None else "chat" if options.chat else "raw",
            "system": options.system,
            "keep": options.keep if options.keep in (None, "*") else options.keep.split(","),
            "tasks": [tasks],
            "resources": _pick(options, RESOURCES),
            "limit": options.limit,
            "unit_rows": options.unit_rows,
            "max_error_rate": options.max_error_rate,
            "on_bad_file": options.on_bad_file,
            "s3": options.s3_values(),
            **settings,
        }
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--json-schema: {path} can't be read: {error}") from None


def _refuse_in_stream(options: JobOptions) -> None:
    unfit = _pick(options, PARQUET_ONLY)
    if unfit:
        flag = next(iter(unfit)).replace("_", "-")
        raise UsageError(f"--{flag} is for Parquet; it can't be used with standard input")


def _need_one_prompt(options: JobOptions) -> None:
    chosen = _pick(options, ("prompt_column", "messages_column", "prompt"))
    if len(chosen) != 1:
        got = " and ".join("--" + name.replace("_", "-") for name in chosen) or "none"
        raise UsageError(
            "say what the prompt is with one of --prompt-column, --messages-column and --prompt; "
            f"got {got}"
        )


def _pick(options: JobOptions, names: Iterable[str]) -> dict[str, Any]:
    return given({name: getattr(options, name) for name in names})
