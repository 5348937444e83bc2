"""A run of tokens that the engine computes: a prompt, an answer being written, or a label."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from model.hybrid_cache import SequenceCache

if TYPE_CHECKING:
    from .step import StepPlan


class Reader(Protocol):
    """What a sequence is computed for: it asks for rows of a step and is given their values."""

    def want(self, plan: "StepPlan", chunk: "Chunk", row: int) -> None:
        """Ask for rows of this chunk, whose first token is row `row` of the step's batch."""

    def continuations(self) -> "list[Continuation]":
        """Say what comes after the computed tokens: nothing, one sequence more, or several."""


# Tokens to append to what is computed, and who reads the sequence from then on.
Continuation = tuple[Reader, list[int]]


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens of which the first `cache.length` are computed.

    Attributes:
        request_id: the request that it belongs to.
        tokens: what is known of it so far; a token that was sampled is appended.
        cache: its pages.
        reader: who wants its values.
        is_prompt: whether it is a prompt that is not computed yet.
    """

    request_id: str
    tokens: list[int]
    cache: SequenceCache
    reader: Reader
    is_prompt: bool = False

    @property
    def remaining(self) -> int:
        """Tokens that are known and not computed yet: 1 while decoding."""
        return len(self.tokens) - self.cache.length


@dataclass(slots=True)
class Chunk:
    """The tokens [start, start + count) of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def last(self) -> bool:
        """Whether nothing that is known of the sequence remains after it."""
        return self.start + self.count == len(self.sequence.tokens)
