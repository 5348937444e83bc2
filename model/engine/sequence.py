"""A run of tokens that the engine computes: a prompt, an answer being written, or a label."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from model.batch import BASE
from model.hybrid_cache import SequenceCache

if TYPE_CHECKING:
    from .step import StepPlan

# Stands for a token that is being drawn: there will be one, but the host does not know which.
UNKNOWN = -1


class Reader(Protocol):
    """What a sequence is computed for: it asks for rows of a step and is given their values."""

    @property
    def layers(self) -> int | None:
        """How many layers it needs computed; None is all."""

    def want(self, plan: "StepPlan", chunk: "Chunk", row: int) -> None:
        """Ask for rows of this chunk, whose first token is row `row` of the step's batch."""

    def continuations(self) -> "list[Continuation]":
        """Say what comes after the computed tokens: nothing, one sequence more, or several."""

    def carry(self) -> "Reader | None":
        """Say who goes on with the token whose draw was asked for last, while nobody knows it.

        None if what follows is certain to be nothing, or may be more than one sequence.
        """


def deepest(layers: Iterable[int | None]) -> int | None:
    """Return the most layers that are needed; None is all."""
    most = 0
    for needed in layers:
        if needed is None:
            return None
        most = max(most, needed)
    return most


# Tokens to append to what is computed, and who reads the sequence from then on.
Continuation = tuple[Reader, list[int]]


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens of which the first `cache.length` are computed.

    Attributes:
        request_id: the request that it belongs to.
        tokens: what is known of it so far; a token that was sampled is appended, as UNKNOWN while
            the host does not know it.
        cache: its pages.
        reader: who wants its values.
        is_prompt: whether it is a prompt that is not computed yet.
        carried: the place of its last token among the draws of the step before, if it is UNKNOWN.
        ended: whether it was finished or dropped; a step that was launched before may compute it.
        adapter: the number of its adapter, or BASE.
    """

    request_id: str
    tokens: list[int]
    cache: SequenceCache
    reader: Reader
    is_prompt: bool = False
    carried: int | None = None
    ended: bool = False
    adapter: int = BASE

    @property
    def remaining(self) -> int:
        """Tokens that are to be computed: 1 while decoding, 0 if that waits for the last values."""
        return len(self.tokens) - self.cache.length

    def carry(self, reader: Reader, draw: int) -> None:
        """Go on with a token that is being drawn, at this place among the draws of its step."""
        self.tokens.append(UNKNOWN)
        self.reader = reader
        self.carried = draw

    def learn(self, position: int, token: int) -> None:
        """Put the token that was drawn for a position in its place."""
        self.tokens[position] = token
        if self.tokens[-1] != UNKNOWN:
            self.carried = None


@dataclass(slots=True)
class Chunk:
    """The tokens [start, end) of a sequence, computed in one step.

    Attributes:
        sequence: whose.
        start: position of the first.
        count: how many.
        last: whether there was nothing of the sequence after it when it was chosen.
    """

    sequence: Sequence
    start: int
    count: int
    last: bool = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.end == len(self.sequence.tokens)

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + self.count
