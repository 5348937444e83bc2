"""What became of rows that were computed alone, noted beside the output for the next run.

`_job/trials/` holds for each range of rows of a unit

- a note for each trial that was begun, until its process is seen to survive,
- a note for each trial whose process was seen to end,
- the answers, once a trial survived; the unit's part takes their place.

A run that is killed may leave a begun trial that did nothing wrong, and a row can take the whole
machine along, so that nobody sees its process end. Such a trial counts half.
"""

import re
from collections.abc import Container
from dataclasses import dataclass, field

import pyarrow as pa

from .packet import from_bytes, to_bytes
from .plan import Unit
from .storage import Store

FOLDER = "_job/trials"
SEEN, UNSEEN = 2, 1
# Ends of its process, in the units above, until a range is cut in two and a single row given up.
ENOUGH_FOR_MANY, ENOUGH_FOR_ONE = SEEN, 2 * SEEN
NOTE = re.compile(r"(\d+-\d+-\d+)\.(\d+)-(\d+)\.(?:(\d+)\.(begun|ended)|answers)")


@dataclass(slots=True)
class _Range:
    """What is noted of a range of rows."""

    begun: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    answered: bool = False


class Trials:
    """The trials of one unit.

    Args:
        store: the output.
        unit: whose rows are tried.
    """

    def __init__(self, store: Store, unit: Unit) -> None:
        self._store = store
        self._unit = unit
        self._ranges: dict[tuple[int, int], _Range] = {}
        self._names: set[str] = set()
        for match in filter(None, map(NOTE.fullmatch, store.names(FOLDER))):
            if match[1] == unit.key:
                self._read(match)

    def condemned(self, first: int, last: int) -> bool:
        """Whether rows [first, last) have ended their process often enough."""
        known = self._range(first, last)
        ends = SEEN * len(known.ended) + UNSEEN * len(known.begun - known.ended)
        return ends >= (ENOUGH_FOR_ONE if last - first == 1 else ENOUGH_FOR_MANY)

    def ends(self, row: int) -> int:
        """Count the times that a row was tried alone and did not survive."""
        return len(self._range(row, row + 1).begun)

    def answers(self, first: int, last: int) -> pa.Table | None:
        """Give the packet of an earlier trial that survived."""
        if not self._range(first, last).answered:
            return None
        return from_bytes(self._store.read(f"{self._stem(first, last)}.answers"))

    def begin(self, first: int, last: int) -> int:
        """Note that a trial is about to be made, and give its number."""
        known = self._range(first, last)
        number = max(known.begun, default=0) + 1
        self._put(self._name(first, last, number, "begun"))
        known.begun.add(number)
        return number

    def ended(self, first: int, last: int, number: int) -> None:
        """Note that a trial ended its process."""
        self._put(self._name(first, last, number, "ended"))
        self._range(first, last).ended.add(number)

    def survived(self, first: int, last: int, number: int, packet: pa.Table) -> None:
        """Keep the answers of a trial."""
        self._put(f"{self._stem(first, last)}.answers", to_bytes(packet))
        self._range(first, last).answered = True
        self.withdraw(first, last, number)

    def withdraw(self, first: int, last: int, number: int) -> None:
        """Take back that a trial was begun: nothing is known of how it would have ended."""
        self._store.delete(self._name(first, last, number, "begun"))
        self._range(first, last).begun.discard(number)

    def clear(self) -> None:
        """Forget everything: the unit has its part."""
        for name in self._names:
            self._store.delete(name)
        self._ranges.clear()
        self._names.clear()

    def _read(self, match: re.Match[str]) -> None:
        known = self._range(int(match[2]), int(match[3]))
        self._names.add(f"{FOLDER}/{match[0]}")
        if match[5] is None:
            known.answered = True
        else:
            (known.begun if match[5] == "begun" else known.ended).add(int(match[4]))

    def _range(self, first: int, last: int) -> _Range:
        return self._ranges.setdefault((first, last), _Range())

    def _put(self, name: str, data: bytes = b"") -> None:
        self._store.put_if_absent(name, data)
        self._names.add(name)

    def _name(self, first: int, last: int, number: int, word: str) -> str:
        return f"{self._stem(first, last)}.{number}.{word}"

    def _stem(self, first: int, last: int) -> str:
        return f"{FOLDER}/{self._unit.key}.{first}-{last}"


def forget_committed(store: Store, committed: Container[Unit]) -> None:
    """Remove the notes of units that have their part: their run ended before it could."""
    for match in filter(None, map(NOTE.fullmatch, store.names(FOLDER))):
        if Unit.from_key(match[1]) in committed:
            store.delete(f"{FOLDER}/{match[0]}")
