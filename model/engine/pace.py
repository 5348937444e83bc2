"""How long a step may take before it counts as hung."""

import math
from collections import defaultdict, deque

LEAST_S = 10.0
FACTOR = 5.0
QUANTILE = 0.99
REMEMBERED = 200


class Pace:
    """The seconds that steps took, by the size of the step.

    A step is held against those of its own size and larger ones: a prompt after a thousand single
    tokens is no fault. Sizes are powers of two.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[int, deque[float]] = defaultdict(
            lambda: deque(maxlen=REMEMBERED)
        )

    def add(self, tokens: int, seconds: float) -> None:
        """Remember a step."""
        self._seconds[tokens.bit_length()].append(seconds)

    def limit(self, tokens: int) -> float:
        """Return the seconds after which a step of so many tokens is hung.

        Infinite for a step larger than any before it: the timeout of the collectives ends that.
        """
        size = tokens.bit_length()
        # A copy: one thread adds, another asks.
        known = sorted(s for n, taken in list(self._seconds.items()) if n >= size for s in [*taken])
        if not known:
            return math.inf
        slow = known[math.ceil(QUANTILE * len(known)) - 1]
        return max(LEAST_S, FACTOR * slow)
