"""Which engine is measured, and what it is asked to be. Standard library only: peers import it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

OURS = "gemmaray"
Answers = list[list[int]]


class BenchmarkError(Exception):
    """A comparison that can't be made, or an engine that did not do what was asked."""


class Request(NamedTuple):
    """A prompt as token ids, and the number of tokens that its answer has."""

    prompt: list[int]
    output_len: int


@dataclass(frozen=True, slots=True)
class Spec:
    """Which engine, and how it is to be run.

    Attributes:
        name: of the engine.
        checkpoint: a local folder.
        dtype: of weights and activations, "bfloat16" or "float32".
        device: "cpu" or "cuda".
        threads: CPU threads.
        variant: what these settings are called in the tables.
        settings: the engine's own: fields of EngineConfig for ours, see each peer's class.
    """

    name: str
    checkpoint: Path
    dtype: str
    device: str
    threads: int
    variant: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The engine and its variant, for people."""
        return f"{self.name} {self.variant}".rstrip()

    def setting(self, name: str, default: Any) -> Any:
        """Return one of the engine's own settings."""
        return self.settings.get(name, default)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"checkpoint": str(self.checkpoint)}

    @classmethod
    def from_plain(cls, fields: dict[str, Any]) -> "Spec":
        """Read what `plain` gave."""
        return cls(**fields | {"checkpoint": Path(fields["checkpoint"])})


class Contender(Protocol):
    """A loaded engine, in a process of its own.

    Attributes:
        version: of the package.
        settings: what a reader of the figures has to know, in a few words.
        precision: of the matmuls: "bfloat16", "float32" or "int8".
    """

    version: str
    settings: str
    precision: str

    def __init__(self, spec: Spec) -> None:
        """Load."""

    def run(self, requests: Sequence[Request]) -> Answers:
        """Answer all requests, greedily and past end tokens: token ids each, or one label's."""

    def close(self) -> None:
        """End what it started."""
