"""What an application is built from: the arguments of `cluster.serve:build_app`.

They come as text from `serve run ... key=value`, so numbers may be written as text here.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.chat import SystemPolicy
from model.params import (
    AdapterPaths,
    CheckedDType,
    Device,
    EngineConfig,
    Quantization,
    named_paths,
)

MIB = 1 << 20
ENGINE_FIELDS = (
    "revision",
    "tensor_parallel",
    "dtype",
    "quantization",
    "device",
    "max_model_len",
    "max_sequences",
    "max_batch_tokens",
    "kv_cache_bytes",
    "threads",
)


class Arguments(BaseModel):
    """Frozen; unknown names are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class ModelArgs(Arguments):
    """One model to serve.

    Attributes:
        model: a checkpoint folder, a hub id, or s3://bucket/prefix; every node must reach it.
        name: what requests call it; a hub id, or the last part of a path, by default.
        system: "reject" refuses a system message, "fold" puts it before the first user message.
        replicas: engines: a number, or "MIN..MAX" to follow the load.
        target_ongoing: requests in flight per replica that autoscaling aims at; None is half of
            max_ongoing.
        max_ongoing: requests that a replica computes at the same time.
        max_queued: requests that wait in front of all replicas, at most; more are refused.
        batch_ongoing: lines of batches in flight per replica, of the least number of them; None is
            half of max_ongoing, which leaves the other half to whoever waits for an answer.
        cpus: for Ray's scheduler, and how many threads compute where there is no GPU.
        hang_s: a replica that is in one step for so long is replaced.
        adapter: a LoRA adapter that is merged into the model.
        adapters: LoRA adapters by name, each of which requests call as a model of its own; also as
            text, `name=folder,name=folder`.

    The others are EngineConfig's; None leaves its default.
    """

    model: str = Field(min_length=1)
    name: str | None = Field(default=None, min_length=1, max_length=256)
    system: SystemPolicy = "reject"
    replicas: int | str = 1
    target_ongoing: float | None = Field(default=None, gt=0)
    max_ongoing: int = Field(default=64, ge=1, le=65536)
    max_queued: int = Field(default=128, ge=0, le=1 << 20)
    batch_ongoing: int | None = Field(default=None, ge=1, le=65536)
    cpus: float = Field(default=1, gt=0)
    hang_s: float = Field(default=120, gt=0)
    revision: str | None = None
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    dtype: CheckedDType = "auto"
    quantization: Quantization = "none"
    device: Device = "auto"
    max_model_len: int | None = Field(default=None, ge=2)
    max_sequences: int | None = Field(default=None, ge=1)
    max_batch_tokens: int | None = Field(default=None, ge=16)
    kv_cache_bytes: int | None = Field(default=None, ge=1 << 16)
    threads: int | None = Field(default=None, ge=1)
    adapter: str | None = Field(default=None, min_length=1)
    adapters: AdapterPaths = Field(default_factory=dict)

    @field_validator("adapters", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return named_paths(value) if isinstance(value, str) else value

    @field_validator("replicas")
    @classmethod
    def _range(cls, value: int | str) -> int | str:
        _replica_range(value)
        return value

    @property
    def served_name(self) -> str:
        """What requests call it."""
        if self.name:
            return self.name
        is_path = self.model.startswith(("s3://", "/", ".", "~")) or self.model.count("/") != 1
        return PurePosixPath(self.model).name if is_path else self.model

    @property
    def replica_range(self) -> tuple[int, int]:
        """The least and the most replicas."""
        return _replica_range(self.replicas)

    @property
    def target(self) -> float:
        """Requests per replica that autoscaling aims at."""
        return self.target_ongoing or max(1.0, self.max_ongoing / 2)

    @property
    def batch_lines(self) -> int:
        """Lines of batches that may be in flight."""
        return (self.batch_ongoing or max(1, self.max_ongoing // 2)) * self.replica_range[0]

    def engine_config(self) -> EngineConfig:
        """Give the settings of one replica's engine. Raises ParameterError."""
        values = {name: getattr(self, name) for name in ENGINE_FIELDS}
        given = {name: value for name, value in values.items() if value is not None}
        adapters = {name: _anywhere(path) for name, path in self.adapters.items()}
        merged = None if self.adapter is None else _anywhere(self.adapter)
        # Online, whoever came first begins first.
        return EngineConfig(
            checkpoint=_anywhere(self.model),
            schedule="fcfs",
            adapter=merged,
            adapters=adapters,
            **given,
        )


class Limits(Arguments):
    """What one request may take.

    Attributes:
        max_body_bytes: of a request.
        max_prompts: inputs of a request.
        max_choices: inputs times n.
        timeout_s: after which a request is given up; it may ask for less, not for more.
        max_file_bytes: of an uploaded file.
        max_batch_lines: of the file of a batch.
        max_open_batches: of one key, that have not ended.
    """

    max_body_bytes: int = Field(default=4 * MIB, ge=1024)
    max_prompts: int = Field(default=1024, ge=1)
    max_choices: int = Field(default=1024, ge=1)
    timeout_s: float = Field(default=600, gt=0, le=86400)
    max_file_bytes: int = Field(default=200 * MIB, ge=1024)
    max_batch_lines: int = Field(default=50_000, ge=1)
    max_open_batches: int = Field(default=100, ge=1)


class ServeArgs(Arguments):
    """An application: models, who may use them, and limits.

    A single model may be given without a list: the fields of ModelArgs then stand beside the
    others, as in `serve run cluster.serve:build_app model=... anonymous=true`.

    Attributes:
        models: to serve, each with a name of its own.
        api_key_file: lines of `NAME sha256:DIGEST`; `gemmaray api-key` writes them.
        anonymous: serve whoever reaches the port. One of the two must be chosen.
        limits: what one request may take.
        front_doors: replicas of the part that speaks HTTP.
        batch_dir: a folder that all nodes see, or s3://bucket/prefix, for files and batches; None
            serves neither.
        batches_at_once: batches that run at the same time; others wait for them.
    """

    models: tuple[ModelArgs, ...]
    api_key_file: str | None = None
    anonymous: bool = False
    limits: Limits = Field(default_factory=Limits)
    front_doors: int = Field(default=1, ge=1, le=1024)
    batch_dir: str | None = Field(default=None, min_length=1)
    batches_at_once: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="before")
    @classmethod
    def _single_model(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "models" in values or "model" not in values:
            return values
        own = set(cls.model_fields)
        single = {name: value for name, value in values.items() if name not in own}
        rest = {name: value for name, value in values.items() if name in own}
        return {**rest, "models": [single]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.api_key_file is None) == (not self.anonymous):
            raise ValueError(
                "say who may use the models: api_key_file=FILE, or anonymous=true for everybody"
            )
        if not self.models:
            raise ValueError("models is empty: give at least one")
        names = [*(model.served_name for model in self.models), *self._adapter_names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two models are called {twice[0]!r}: give one of them a name")
        return self

    @property
    def _adapter_names(self) -> list[str]:
        return [name for model in self.models for name in model.adapters]

    @property
    def parents(self) -> Mapping[str, str]:
        """What requests call each adapter, and the model that it changes."""
        return {name: model.served_name for model in self.models for name in model.adapters}


def _anywhere(path: str) -> str:
    """Give a folder's absolute path: replicas run in folders of their own."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def _replica_range(value: int | str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4})(?:\.\.([0-9]{1,4}))?", str(value))
    least = int(match[1]) if match else 0
    most = int(match[2] or least) if match else 0
    if not 1 <= least <= most:
        raise ValueError(f"must be a number or MIN..MAX, at least 1, got {value!r}")
    return least, most
