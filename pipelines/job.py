"""A job as a person writes it, checked before anything is read or started."""

import re
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from model.errors import ParameterError
from model.long_texts import LongTexts, LongTextsMode
from model.params import (
    AdapterPaths,
    AttentionName,
    CheckedDType,
    Device,
    EngineConfig,
    KernelsName,
    Quantization,
    Settings,
)

from .errors import JobError
from .s3 import S3Settings
from .task_settings import Name, Tasks, listed
from .template import Template

MAX_REPLICAS = 4096


class Resources(Settings):
    """What the job runs on; none of it changes the answers but dtype, quantization, max_model_len.

    Attributes:
        replicas: engines side by side: a number, "MIN..MAX" to follow the load, or None for one
            per GPU group, or per node where there is no GPU.
        tensor_parallel: GPUs (or processes) that share one engine.

    The others are EngineConfig's; None leaves its default.
    """

    replicas: int | str | None = None
    tensor_parallel: int = 1
    dtype: CheckedDType = "auto"
    device: Device = "auto"
    max_model_len: int | None = None
    max_batch_tokens: int | None = None
    max_sequences: int | None = None
    kv_cache_bytes: int | None = None
    page_size: int | None = None
    attention: AttentionName = "auto"
    kernels: KernelsName = "auto"
    quantization: Quantization = "none"
    threads: int | None = None

    @field_validator("replicas")
    @classmethod
    def _range(cls, value: int | str | None) -> int | str | None:
        if value is not None:
            _replica_range(value)
        return value

    @property
    def replica_range(self) -> tuple[int, int] | None:
        """The least and the most replicas, if the job says."""
        return None if self.replicas is None else _replica_range(self.replicas)


class JobSpec(Settings):
    """A batch job: Parquet or JSON lines in, Parquet out.

    Attributes:
        input: a file, a folder (searched through), a glob, or a list of these; local or s3://.
            Rows are known by their file's name below the inputs' common folder, and by their place
            in it.
        output: a folder, local or s3://. The same job run again goes on where it was; another job
            is refused.
        model: a local checkpoint folder, a hub id, or s3://bucket/prefix.
        revision: the branch, tag or commit of a hub id.
        adapter: a LoRA adapter that is merged into the model; see EngineConfig, as for the next.
        adapters: adapters by name, from which adapter_column chooses.
        adapter_column: a text column with the name of each row's adapter; null and "" are the model
            alone. It is kept.
        prompt: text with {column} in it; {{ and }} are braces. Text and integer columns can be
            used.
        prompt_column: a text column that holds the prompt. Instead of `prompt`.
        messages: a column of chat messages: list<struct<role, content>>, or the same as JSON text.
            Instead of `prompt`.
        settings_column: a text column with JSON objects of generate's settings, each for its row;
            what one leaves out, and a null, are the job's.
        chat: "chat" puts each prompt into a user turn, "raw" takes it as it is behind <bos>; "auto"
            is chat where the checkpoint has a chat template, but raw for tag_tokens.
        system: what becomes of system messages, which Gemma 2 has none of: "reject" makes an error
            row, "fold" puts their text before the first user message.
        long_texts: what becomes of prompts of more tokens than the model takes: "error" makes an
            error row, "truncate" cuts the text off, "stride" computes it in windows; for classify,
            tag_tokens and embed.
        stride: tokens that neighbouring windows share.
        keep: input columns to copy to the output; "*" is all of them.
        tasks: see Tasks.
        resources: see Resources.
        limit: only this many rows, from the start.
        unit_rows: rows that are committed together; None derives it from the job's size.
        max_error_rate: the job stops when more than this share of its rows fail, 0 to 1; what is
            committed stays, and the same job with a higher share goes on. It is checked once
            1,000 rows are done, or all of a smaller job. None is a half, but lets jobs of less
            than 1,000 rows end.
        on_bad_file: "fail" refuses a job with input files that are damaged, "quarantine" goes on
            without them and says so in its plan, its summary and _job/quarantine.json.
        s3: how S3 is reached, for inputs and output; see S3Settings.
    """

    input: tuple[Name, ...] = Field(min_length=1)
    output: Name
    model: Name
    revision: str | None = None
    adapter: Name | None = None
    adapters: AdapterPaths = Field(default_factory=dict)
    adapter_column: Name | None = None
    prompt: Name | None = None
    prompt_column: Name | None = None
    messages: Name | None = None
    settings_column: Name | None = None
    chat: Literal["auto", "chat", "raw"] = "auto"
    system: Literal["reject", "fold"] = "reject"
    long_texts: LongTextsMode = "error"
    stride: int | None = Field(default=None, ge=0)
    keep: Literal["*"] | tuple[Name, ...] = "*"
    tasks: Tasks
    resources: Resources = Field(default_factory=Resources)
    limit: int | None = Field(default=None, ge=1)
    unit_rows: int | None = Field(default=None, ge=1, le=1_000_000)
    max_error_rate: float | None = Field(default=None, ge=0, le=1)
    on_bad_file: Literal["fail", "quarantine"] = "fail"
    s3: S3Settings = Field(default_factory=S3Settings)

    @field_validator("input", "keep", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value if value == "*" else (value,)
        return listed(value)

    @field_validator("prompt")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is not None:
            Template.parse(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("prompt", "prompt_column", "messages") if getattr(self, name)]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"give one of prompt, prompt_column and messages, got {got}")
        if self.chat == "raw" and self.messages:
            raise ValueError("messages need the chat template: leave out chat, or give a prompt")
        if self.tasks.tag_tokens and (self.messages or self.chat == "chat"):
            raise ValueError("tag_tokens works on plain text: give a prompt, and chat: raw or auto")
        if self.settings_column and not self.tasks.generate:
            raise ValueError("settings_column holds settings of generate, which is no task here")
        try:
            LongTexts(self.long_texts, self.stride)
        except ParameterError as error:
            raise ValueError(str(error)) from None
        whole = [name for name in ("generate", "score_labels") if name in self.tasks.names]
        if self.long_texts != "error" and whole:
            raise ValueError(
                f"long_texts: {self.long_texts} is for classify, tag_tokens and embed: {whole[0]} "
                "goes on after the end of a prompt, which must not be cut off"
            )
        if len(set(self.keep)) != len(self.keep):
            raise ValueError("keep names a column twice")
        if bool(self.adapters) != bool(self.adapter_column):
            raise ValueError("adapters and adapter_column go together: give both or neither")
        self.engine_config(self.model, self.revision)
        return self

    @property
    def kept_columns(self) -> Literal["*"] | tuple[str, ...]:
        """The columns to copy: those of `keep`, and what says which adapter answered."""
        column = self.adapter_column
        if self.keep == "*" or column is None or column in self.keep:
            return self.keep
        return (*self.keep, column)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a job file.

        Raises:
            JobError: it can't be read, or is not a map.
            ParameterError: a setting is unknown, missing, or out of its range.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{path} can't be read: {error}") from None
        except yaml.YAMLError as error:
            raise JobError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise JobError(f"{path} must hold a map with input, output, model, tasks, ...")
        try:
            return cls(**{str(key): value for key, value in values.items()})
        except ParameterError as error:
            raise ParameterError(f"{path}: {str(error).removeprefix('JobSpec: ')}") from None

    def engine_config(self, checkpoint: str, revision: str | None, **changes: Any) -> EngineConfig:
        """Give the settings of one replica's engine, some of them replaced."""
        values = self.resources.model_dump(exclude={"replicas"}, exclude_none=True)
        values |= {"adapter": self.adapter, "adapters": self.adapters}
        return EngineConfig(checkpoint=checkpoint, revision=revision, **{**values, **changes})


def _replica_range(value: int | str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(value))
    least = int(match[1]) if match else 0
    most = int(match[2] or least) if match else 0
    if not 1 <= least <= most <= MAX_REPLICAS:
        raise ValueError(f"must be a number or MIN..MAX, at least 1, got {value!r}")
    return least, most
