"""LoRA adapters of a job: found and looked at before it runs, and chosen by its rows."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from model.config import ModelConfig
from model.errors import PromptError
from model.identity import identify_adapter
from model.locate import hub_commit, locate_adapter

from .columns import decoded, texts
from .job import JobSpec


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter that fits the job's model.

    Attributes:
        path: what replicas are to load: an absolute folder, a hub id at a commit, or an S3 URI.
        digest: tells adapters apart.
        numbers: how many its matrices hold.
    """

    path: str
    digest: str
    numbers: int


def adapted(config: ModelConfig, adapter: str | None) -> ModelConfig:
    """Return what a model becomes when an adapter is merged into it; see model.lora.

    Raises:
        CheckpointError: the adapter can't be found or used.
    """
    if adapter is None:
        return config
    from model.lora import adapted_config  # noqa: PLC0415 - brings torch, which others can do without

    return adapted_config(config, locate_adapter(adapter))


def inspect_adapter(adapter: str, config: ModelConfig) -> AdapterInfo:
    """Find an adapter, and check that it fits a model.

    Raises:
        CheckpointError: it can't be found, can't be used, or does not fit.
    """
    from model.lora import read_adapter  # noqa: PLC0415 - brings torch, as above

    folder = locate_adapter(adapter)
    numbers = read_adapter(folder, config).numbers
    path = adapter
    if Path(adapter).expanduser().is_dir():
        path = str(folder.absolute())
    elif commit := hub_commit(folder):
        path = f"{adapter.partition('@')[0]}@{commit}"
    return AdapterInfo(path, identify_adapter(folder), numbers)


@dataclass(frozen=True, slots=True)
class RowAdapters:
    """Reads which adapter each row wants.

    Attributes:
        column: a text column; null and "" are the model alone.
        names: that there are.
    """

    column: str
    names: Collection[str]

    @classmethod
    def of(cls, spec: JobSpec) -> "RowAdapters | None":
        """Read from a job where its rows name theirs, if they do."""
        if spec.adapter_column is None:
            return None
        return cls(spec.adapter_column, tuple(spec.adapters))

    def read(self, table: pa.Table) -> Iterator[str | PromptError | None]:
        """Give the name in each row, None for none, or why it can't be used."""
        for value in texts(table.column(self.column)):
            try:
                yield None if value is None else self._read(value)
            except PromptError as error:
                yield error

    def _read(self, value: bytes) -> str | None:
        name = decoded(value, self.column) or None
        if name is not None and name not in self.names:
            raise PromptError(
                f"column {self.column!r}: there is no adapter {name!r}; the job has "
                f"{', '.join(self.names)}"
            )
        return name
