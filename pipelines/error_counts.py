"""Which errors rows ended in: how many of each class, and one example, however many there are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MOST_CLASSES = 8
OTHER = "other"


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """The rows that failed with one class of error.

    Attributes:
        name: the class; "other" for those beyond the eight commonest, and of older parts.
        count: rows.
        file: the file of one of them; "" if none is known.
        row: its place in that file.
        message: its error, or the beginning of it.
    """

    name: str
    count: int
    file: str = ""
    row: int = -1
    message: str = ""


def merged(counts: Iterable[ErrorCount]) -> tuple[ErrorCount, ...]:
    """Add up counts of the same class: the commonest first, the rarest of many as "other"."""
    found: dict[str, ErrorCount] = {}
    for item in counts:
        known = found.get(item.name)
        found[item.name] = replace(known, count=known.count + item.count) if known else item
    other = [found.pop(OTHER)] if OTHER in found else []
    ranked = sorted(found.values(), key=lambda item: -item.count)
    if len(ranked) > MOST_CLASSES:
        other += ranked[MOST_CLASSES:]
    return (*ranked[:MOST_CLASSES], *_as_other(other))


def _as_other(rest: Sequence[ErrorCount]) -> Iterable[ErrorCount]:
    if rest:
        yield replace(rest[0], name=OTHER, count=sum(item.count for item in rest))
