"""Find the rows that end the process which computes them, by computing ranges of rows alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Answers = TypeVar("Answers")


@dataclass(frozen=True, slots=True)
class Piece(Generic[Answers]):
    """Rows [first, last) with their answers, or one row that ends its process: answers is None."""

    first: int
    last: int
    answers: Answers | None


def bisect(
    first: int, last: int, attempt: Callable[[int, int], Answers | None]
) -> Iterator[Piece[Answers]]:
    """Compute rows in pieces: a range that ends its process is cut in two, down to single rows.

    With k such rows among n it makes at most 1 + 2 k ceil(log2 n) attempts.

    Args:
        first: the first row.
        last: the one behind the last; there is at least one.
        attempt: computes rows [first, last) in a process with nothing else in it; None says that
            they ended it, and for a single row, that it is to be given up.

    Yields:
        Pieces that cover the rows in order.
    """
    left = [(first, last)]
    while left:
        low, high = left.pop()
        answers = attempt(low, high)
        if answers is not None or high - low == 1:
            yield Piece(low, high, answers)
        else:
            middle = (low + high) // 2
            left += [(middle, high), (low, middle)]
