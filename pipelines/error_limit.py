"""When a job is stopped because too many of its rows fail."""

from dataclasses import dataclass

from .error_counts import ErrorCount
from .errors import JobError
from .ledger import Ledger

DEFAULT_RATE = 0.5
CHECKED_FROM_ROWS = 1000
SHOWN_CLASSES = 3


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """The share of failed rows that a job may have.

    It is checked once 1,000 rows are done, so that an unlucky beginning stops nothing; or all of
    them, where the user set it and the job has fewer. Errors that will be too many then are too
    many now: nothing is computed in vain.

    Attributes:
        given: the share that the user set, if any; by default it is a half.
    """

    given: float | None

    def check(self, ledger: Ledger) -> None:
        """Stop a job whose rows fail.

        Raises:
            JobError: more of them failed than may; it says how to go on.
        """
        rate = DEFAULT_RATE if self.given is None else self.given
        total = ledger.plan.total_rows
        least = CHECKED_FROM_ROWS if self.given is None else min(CHECKED_FROM_ROWS, total)
        if ledger.failed > rate * max(ledger.rows, least):
            raise JobError(
                f"{ledger.failed:,} of {ledger.rows:,} rows failed, more than max_error_rate "
                f"({rate:g}) allows: {commonest(ledger.errors)}; what is committed stays: correct "
                "the job or its input, or run it again with a higher --max-error-rate to go on "
                "from here"
            )


def commonest(errors: tuple[ErrorCount, ...]) -> str:
    """Name the commonest classes of error, each with an example."""
    return "; ".join(described(item) for item in errors[:SHOWN_CLASSES])


def described(item: ErrorCount) -> str:
    """Say how many rows failed in one way, and show one of them."""
    head = f"{item.count:,} {item.name}"
    return f"{head} ({item.file} row {item.row}: {item.message})" if item.file else head
