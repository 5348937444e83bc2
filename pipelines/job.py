"""A job as a person writes it, checked before anything is read or started."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from model.errors import ParameterError
from model.params import (
    AdapterPaths,
    AttentionName,
    CheckedDType,
    Device,
    EngineConfig,
    KernelsName,
    Quantization,
    SamplingParams,
    Settings,
)
from model.tasks import Normalize, Pooling

from .errors import JobError
from .s3 import S3Settings
from .template import Template

Name = Annotated[str, Field(min_length=1)]
MAX_REPLICAS = 4096


class LabelSettings(Settings):
    """The labels whose likelihood as the answer is compared.

    Attributes:
        labels: at least two, as the model would write them.
        normalize: "sum" compares log-likelihoods, "mean" divides them by the label's tokens.
    """

    labels: tuple[Name, ...] = Field(min_length=2, max_length=4096)
    normalize: Normalize = "sum"

    @field_validator("labels", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ValueError(f"labels holds {twice[0]!r} more than once")
        blank = [label for label in self.labels if label != label.strip() or not label]
        if blank:
            raise ValueError(f"label {blank[0]!r} must not start or end with white space")
        return self


class EmbedSettings(Settings):
    """How a prompt becomes one vector."""

    pooling: Pooling = "last"
    normalize: bool = True


class NoSettings(Settings):
    """A task with nothing to set."""


class Tasks(Settings):
    """What is computed for every row: at least one task, each at most once.

    A job file gives a list of one-key maps, `- generate: {max_tokens: 64}`; a task with nothing to
    set may stand alone, `- classify`.
    """

    generate: SamplingParams | None = None
    score_labels: LabelSettings | None = None
    classify: NoSettings | None = None
    tag_tokens: NoSettings | None = None
    embed: EmbedSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        tasks: dict[str, Any] = {}
        for item in value:
            entry = {item: {}} if isinstance(item, str) else item
            if not isinstance(entry, dict) or len(entry) != 1:
                raise ValueError(f"each task is one name with its settings, got {item!r}")
            ((name, settings),) = entry.items()
            if name in tasks:
                raise ValueError(f"{name} is there twice")
            tasks[name] = {} if settings is None else settings
        return tasks

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.names:
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}")
        if self.score_labels and self.classify:
            raise ValueError("score_labels and classify both fill the label columns: choose one")
        if self.generate and self.generate.n > 1:
            raise ValueError("generate.n must be 1 in a job: a row has one generated_text")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks asked for, in the order of their columns."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


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
        return tuple(value) if isinstance(value, list) else value

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
