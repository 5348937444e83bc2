"""Who computed a unit, and when: what travels with its answers to the commit."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """A replica's work on a unit.

    Attributes:
        begun: when it began, in seconds since 1970.
        finished: when all answers were there.
        replica: its id.
        latencies: how many rows took [2^i, 2^(i+1)) ms from submit to answer, for i = 0, 1, ...;
            those of less than 2 ms count in the first.
        attempt: how many times the unit was begun, this time included.
    """

    begun: float
    finished: float
    replica: str
    latencies: tuple[int, ...]
    attempt: int = 0


def histogram(seconds: Iterable[float]) -> tuple[int, ...]:
    """Count latencies as Trace has them."""
    counts = Counter(max(0, int(value * 1000).bit_length() - 1) for value in seconds)
    return tuple(counts[place] for place in range(max(counts, default=-1) + 1))
