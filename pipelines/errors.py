"""What can go wrong with a job because of what a user gave us, beside model.errors.

GemmarayError
└── JobError             the job can't start, or can't go on
    ├── InputError       input files are missing, unreadable, or lack what the job asks of them
    ├── StorageError     a path can't be used, or a store can't keep its promises
    ├── PlanMismatch     the output belongs to a job that differs from this one
    └── JobInterrupted   Ctrl-C or SIGTERM; the same job goes on from there

RowKilledProcess is a GemmarayError that is never raised: it stands in the row that it is about.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from model.errors import GemmarayError

SHOWN = 20

T = TypeVar("T")


class JobError(GemmarayError):
    """A job can't start or can't go on."""


class InputError(JobError):
    """Input files are missing, unreadable, or lack what the job asks of them."""


class StorageError(JobError):
    """A path can't be used, or a store can't keep its promises."""


class PlanMismatch(JobError):  # noqa: N818 - it names what is the case
    """The output belongs to a job that differs from this one."""


class JobInterrupted(JobError):  # noqa: N818 - it names what is the case
    """The user stopped the job; what is committed stays."""


class RowKilledProcess(GemmarayError):  # noqa: N818 - it names what is the case
    """A row that ended the process that computed it, each time, with nothing else in it."""


def error_cells(error: GemmarayError) -> dict[str, str]:
    """Give a failed row's values in the columns `error_class` and `error`."""
    return {"error_class": type(error).__name__, "error": str(error)}


def listed(head: str, lines: Sequence[str]) -> str:
    """Put findings below a heading, one per line, the first 20 of them."""
    shown = [f"  {line}" for line in lines[:SHOWN]]
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([head, *shown, *more])


class Faults:
    """Errors of checks that do not depend on each other, so that one message names all of them."""

    def __init__(self) -> None:
        self._errors: list[GemmarayError] = []

    def attempt(self, check: Callable[[], T]) -> T | None:
        """Give what a check returns; None, and one error more, where it fails."""
        try:
            return check()
        except GemmarayError as error:
            self._errors.append(error)
            return None

    def end(self) -> None:
        """Raise what was found: one error as it is, several of them as a JobError."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            lines = [f"  {line}" for error in self._errors for line in str(error).splitlines()]
            head = f"{len(self._errors)} things are wrong with this job:"
            raise JobError("\n".join([head, *lines]))
