"""The subcommands of `gemmaray`.

Torch and Ray take seconds to import, so what needs them is imported where it is used (hence each
PLC0415 below): `--help`, `--version` and a mistyped flag answer at once.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.job import JobSpec
from pipelines.s3 import S3Settings

from .attention_mask.command import attention_mask
from .chat.command import chat
from .converting import convert
from .doctor.command import doctor
from .heads import classify, embed, tag
from .help_panels import arrange
from .options import (
    MAX_ERROR_RATE,
    Address,
    JobOptions,
    Place,
    Quiet,
    S3Options,
    Sampling,
    UsageError,
    given,
)
from .quantizing import quantize
from .serve.options import ServeOptions
from .signature import with_options
from .start import launch_job, start
from .submission.commands import ClusterAddress, cancel, jobs, logs, submit

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="The folder of a job's results, local or s3://.")
]
OutputOrId = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT|ID",
        help="The folder of a job's results, local or s3://; or the id of a submitted job.",
    ),
]

app = typer.Typer(
    help="Gemma 2 over Parquet and HTTP: generations and scores, on one machine or a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it
    if wanted:
        typer.echo(f"gemmaray {version('gemmaray')}")
        raise typer.Exit


@app.callback()
def _every_command(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Typer wants a function to hang --version on."""


@app.command()
def run(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A job file.")],
    *,
    max_error_rate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help=MAX_ERROR_RATE, show_default="what the job file says, or 0.5"
        ),
    ] = None,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """Run a job file, or resume it."""
    spec = JobSpec.from_yaml(job)
    changes = given({"max_error_rate": max_error_rate})
    launch_job(spec.model_copy(update=changes), address=address, quiet=quiet)


@app.command()
@with_options
def retry_failed(
    output: Output,
    s3: S3Options,
    *,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Also rows whose error comes again as long as the input is what it is: a prompt "
            "that is null, empty, too long or no chat, text that is not UTF-8, a damaged page "
            "(PromptError, ChatError, InputError).",
        ),
    ] = False,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """Compute failed rows again, and replace them where they stand.

    These are rows that may do better another time: those of class RowKilledProcess, after more
    memory or a new driver, and what --all does not name. Only they are computed, by the job that
    the output is from; each part is replaced at once, so readers see every row once.
    """
    from .launch import retry  # noqa: PLC0415

    settings = S3Settings(**s3.s3_values())
    raise typer.Exit(retry(output, settings, everything=everything, address=address, quiet=quiet))


@app.command()
def plan(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A job file.")],
    *,
    gpus: Annotated[
        int | None,
        typer.Option(min=0, help="GPUs of the node that it is to run on.", show_default="here"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of each GPU, or of a machine without one: 80GiB.",
            show_default="what is free here",
        ),
    ] = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(min=0.001, help="Prompt and generated tokens per second of the whole job."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="OUTPUT", help="A job like this one, which tells how fast it was."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at a job without running it: rows, lengths, errors, memory, time."""
    from .preflight_text import plan_job  # noqa: PLC0415

    spec = JobSpec.from_yaml(job)
    speed = tokens_per_second
    plan_job(spec, gpus=gpus, memory=memory, tokens_per_s=speed, like=like, as_json=as_json)


@app.command()
@with_options
def verify(
    output: Output,
    s3: S3Options,
    *,
    no_input: Annotated[
        bool,
        typer.Option("--no-input", help="Leave the input alone: kept columns are not compared."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove that each input row is in the output once, and its kept columns equal."""
    from .verifying import verify_output  # noqa: PLC0415

    settings = S3Settings(**s3.s3_values())
    raise typer.Exit(verify_output(output, settings, with_input=not no_input, as_json=as_json))


@app.command()
@with_options
def status(
    output: OutputOrId,
    s3: S3Options,
    *,
    address: ClusterAddress = None,
    full: Annotated[
        bool, typer.Option("--full", help="Count errors in all parts, not in a sample of them.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the job is complete.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how far a job is, from any machine that can read its output.

    Of a submitted job, ID says how its driver is, from any machine that reaches the cluster.
    """
    if address is not None and "/" not in output and not Path(output).exists():
        if full:
            raise UsageError("--full is for the OUTPUT of a job, not for its ID")
        from .submission.terminal import show_job  # noqa: PLC0415

        show_job(output, address, watch=watch, as_json=as_json)
        return
    from .job_status import show_status  # noqa: PLC0415

    settings = S3Settings(**s3.s3_values())
    show_status(output, settings, full=full, watch=watch, as_json=as_json)


@app.command()
@with_options
def report(
    output: Output,
    s3: S3Options,
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Where to write it.", show_default="named after it"),
    ] = None,
) -> None:
    """Write a page about a job: speed, lengths, labels, errors, sample rows."""
    from .report_page import write_report  # noqa: PLC0415

    typer.echo(write_report(output, out, S3Settings(**s3.s3_values())))


@app.command()
@with_options
def generate(place: Place, options: JobOptions, sampling: Sampling) -> None:
    """Continue each prompt."""
    start(place, options, {"generate": sampling.settings()})


@app.command()
@with_options
def score_labels(
    place: Place,
    options: JobOptions,
    labels: Annotated[str, typer.Option(metavar="A,B,...", help="At least two labels.")],
    normalize: Annotated[
        Literal["sum", "mean"] | None,
        typer.Option(
            help="Compare log-likelihoods, or their means over the tokens of each label.",
            show_default="sum",
        ),
    ] = None,
) -> None:
    """Give labels a probability as the answer."""
    settings = {"labels": labels.split(","), "normalize": normalize}
    start(place, options, {"score_labels": given(settings)})


for command in (
    classify,
    tag,
    embed,
    submit,
    jobs,
    logs,
    cancel,
    doctor,
    chat,
    attention_mask,
    convert,
    quantize,
):
    app.command()(command)


@app.command()
@with_options
def serve(options: ServeOptions) -> None:
    """Serve a model behind OpenAI's API, until Ctrl-C."""
    from .serve.command import Place, serve_models  # noqa: PLC0415

    place = Place(options.host, options.port, options.address)
    serve_models(options.arguments(), place, quiet=options.quiet)


@app.command()
def api_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Made if it is not there.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
) -> None:
    """Make an API key: its digest goes into FILE, and it is shown once."""
    from .serve.access import add_key  # noqa: PLC0415

    typer.echo(add_key(file, name))


@app.command()
def demo() -> None:
    """Run the demo jobs of a source checkout."""
    from .demo import run_demo  # noqa: PLC0415

    run_demo()


arrange(app)
