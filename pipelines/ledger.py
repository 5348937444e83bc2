"""What a run knows of the parts that are there: a few bytes for each, however many they are."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from .commit import Receipt
from .error_counts import ErrorCount, merged
from .plan import Plan, Unit

ABSENT = -1


@dataclass(frozen=True, slots=True)
class UnitCount:
    """A committed unit's failed rows."""

    failed: int


class Ledger:
    """Sums of receipts, and which units they were of.

    Attributes:
        plan: the job's.
        parts: units that have their part.
        rows: of these units.
        failed: those of the rows whose error is filled.
        prompt_tokens: of all these rows.
        completion_tokens: likewise.
        errors: the failed rows by class.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.parts = self.rows = self.failed = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.errors: tuple[ErrorCount, ...] = ()
        self._failed = array("i", [ABSENT]) * plan.unit_count

    def add(self, receipt: Receipt) -> None:
        """Take a receipt; a second one of the same unit changes nothing."""
        unit = Unit(*receipt.unit)
        if unit in self:
            return
        self._failed[self.plan.index(unit)] = receipt.failed
        self.parts += 1
        self.rows += receipt.rows
        self.failed += receipt.failed
        self.prompt_tokens += receipt.prompt_tokens
        self.completion_tokens += receipt.completion_tokens
        if receipt.failed:
            self.errors = merged((*self.errors, *receipt.known_errors()))

    def __contains__(self, unit: object) -> bool:
        if not isinstance(unit, Unit) or not self.plan.holds(unit):
            return False
        return self._failed[self.plan.index(unit)] != ABSENT

    def __getitem__(self, unit: Unit) -> UnitCount:
        """Give what is known of a unit. Raises KeyError where it has no part."""
        failed = self._failed[self.plan.index(unit)]
        if failed == ABSENT:
            raise KeyError(unit)
        return UnitCount(failed)

    def missing(self) -> Iterator[Unit]:
        """Give the units that have no part, in source order."""
        return (unit for unit in self.plan.units() if unit not in self)
