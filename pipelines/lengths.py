"""How many there are of each length: exact, in little memory, and easily added up."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Far more than any context; what a damaged column may hold beyond it counts as this long.
LONGEST = 1 << 20

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Lengths from `low` up to and with `high`, and how many there are of them."""

    low: int
    high: int
    count: int


class Lengths:
    """Counts lengths in tokens.

    Attributes:
        counts: how many there are of length 0, 1, 2, ... up to the longest.
    """

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.counts: Ints = np.zeros(0, np.int64)
        self.add(np.array(list(values), np.int64))

    def add(self, values: Ints) -> None:
        """Count some more."""
        if len(values):
            self._merge(np.bincount(np.clip(values, 0, LONGEST)).astype(np.int64))

    def merge(self, other: "Lengths") -> None:
        """Count what another one has counted."""
        self._merge(other.counts)

    def __len__(self) -> int:
        """Tell how many were counted."""
        return int(self.counts.sum())

    @property
    def total(self) -> int:
        """The sum of all lengths."""
        return int(self.counts @ np.arange(len(self.counts)))

    @property
    def mean(self) -> float:
        """The mean length; 0 where nothing was counted."""
        return self.total / max(1, len(self))

    def percentile(self, share: float) -> int:
        """Give the least length that this share of all do not exceed; 0 where there are none."""
        if not len(self):
            return 0
        least = max(1, math.ceil(share * len(self)))
        return int(np.searchsorted(np.cumsum(self.counts), least))

    @property
    def longest(self) -> int:
        """The greatest length."""
        return self.percentile(1.0)

    def bins(self, most: int = 20) -> list[Bin]:
        """Cut the lengths into bins of one round width, the rare longest ones in the last."""
        return list(self._bins(most)) if len(self) else []

    def _bins(self, most: int) -> Iterator[Bin]:
        shortest, usual = self.percentile(0.0), self.percentile(0.995)
        width = round_up((usual - shortest + 1) / most)
        for low in range(shortest // width * width, usual + 1, width):
            is_last = low + width > usual
            high = max(self.longest, low + width - 1) if is_last else low + width - 1
            yield Bin(low, high, int(self.counts[low : high + 1].sum()))

    def _merge(self, counts: Ints) -> None:
        size = max(len(counts), len(self.counts))
        self.counts = np.pad(self.counts, (0, size - len(self.counts)))
        self.counts[: len(counts)] += counts


def round_up(value: float) -> int:
    """Give the least of 1, 2, 5, 10, 20, 50, ... that is not below a value."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale >= value:
                return step * scale
        scale *= 10
