"""What a task of a job is: a row in, the values of its columns out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from model.long_texts import WindowedPrompt
from model.params import SamplingParams
from model.tasks import Task


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, ready for the engine.

    Attributes:
        prompt_ids: its tokens, or its windows.
        spaced: whether a label that follows it starts with a space.
        seed: of its sampling.
        text: what it was encoded from, where a task needs that.
        offsets: characters [start, end) of each token in the text.
        settings: of its sampling, where they are not the job's.
    """

    prompt_ids: list[int] | WindowedPrompt
    spaced: bool
    seed: int
    text: str = ""
    offsets: tuple[tuple[int, int], ...] = ()
    settings: SamplingParams | None = None


class ResultColumns(Protocol):
    """The columns of one task."""

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types."""
        ...

    @property
    def reserve(self) -> int:
        """Tokens that must fit behind the prompt."""
        ...

    def task(self, row: Row) -> Task:
        """Give what the engine is asked."""
        ...

    def cells(self, result: Any) -> dict[str, Any]:
        """Give the values of the columns."""
        ...
