"""The rows of a part that failed, and which of them may do better another time."""

import pyarrow as pa
import pyarrow.compute as pc

from model.errors import ChatError, PromptError

from .error_counts import OTHER, ErrorCount, merged
from .errors import InputError

MOST_CHARACTERS = 300
# What these say of a row stays true as long as the job and its input are what they are.
CERTAIN = frozenset(kind.__name__ for kind in (PromptError, ChatError, InputError))


def may_pass(error_class: str | None) -> bool:
    """Whether a row that failed in this way may do better another time."""
    return error_class not in CERTAIN


def failed_rows(table: pa.Table, *, everything: bool) -> list[int]:
    """Find rows that are worth another try.

    Args:
        table: with the columns `error`, and `error_class` if the part is not from before it.
        everything: also take errors that will come again.

    Returns:
        Their places in the table.
    """
    places: list[int] = pc.indices_nonzero(table["error"].is_valid()).to_pylist()
    if everything or "error_class" not in table.column_names:
        return places
    names = table["error_class"]
    return [place for place in places if may_pass(names[place].as_py())]


def count_errors(table: pa.Table, file: str, first: int) -> tuple[ErrorCount, ...]:
    """Count the errors in a unit's rows.

    Args:
        table: its rows, with the columns `error_class` and `error`.
        file: the input file's name.
        first: the first row's place in it.
    """
    counts = []
    messages, names = table["error"], table["error_class"]
    for row in failed_rows(table, everything=True):
        message = messages[row].as_py()[:MOST_CHARACTERS]
        counts.append(ErrorCount(names[row].as_py() or OTHER, 1, file, first + row, message))
    return merged(counts)
