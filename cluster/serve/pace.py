"""How fast the tokens of a stream come."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from actors.calls import Added, Event


class Pace:
    """Measures the time from one token to the next, of each answer of one stream."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], float] = {}

    def of(self, events: Iterable[Event]) -> Iterator[float]:
        """Give the seconds per token since those before, for each answer that has new ones.

        Args:
            events: what has just come, together.
        """
        now = time.monotonic()
        fresh = Counter[tuple[int, int]]()
        for event in events:
            if isinstance(event, Added):
                fresh[event.prompt, event.delta.index] += len(event.delta.token_ids)
        for answer, tokens in fresh.items():
            if not tokens:
                continue
            if answer in self._last:
                yield (now - self._last[answer]) / tokens
            self._last[answer] = now
