"""An output folder as it lies there, for those who only read: its plan and its parts."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .commit import SUCCESS_NAME, Receipt, read_receipt
from .errors import JobError, StorageError
from .locations import STORE_ERRORS, filesystem, parse_location
from .plan import PLAN_NAME, Plan, Unit, part_units
from .s3 import ENVIRONMENT, S3Settings
from .source_file import is_damage
from .storage import Store, open_store

RECEIPT_THREADS = 16


class DamagedPartError(JobError):
    """A part can't be read, and never will be.

    Attributes:
        reason: why, without the part's name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Output:
    """An output folder.

    Attributes:
        store: the folder.
        plan: of the job that writes it.
        changed: the files in it, with the time of their last change in unix seconds.
    """

    store: Store
    plan: Plan
    changed: Mapping[str, float]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The planned units that have a part, in source order."""
        return tuple(sorted(part_units(self.changed, self.plan) & set(self.plan.units())))

    @cached_property
    def strays(self) -> tuple[str, ...]:
        """Parquet files that are no part of the plan, though readers would take them for one."""
        parts = {self.plan.part_name(unit) for unit in self.units}
        return tuple(sorted(n for n in self.changed if _is_result(n) and n not in parts))

    @property
    def url(self) -> str:
        """What the user calls it."""
        return self.store.url

    @property
    def is_complete(self) -> bool:
        """Whether a run has marked it as complete."""
        return SUCCESS_NAME in self.changed

    def changed_at(self, unit: Unit) -> float:
        """Tell when a unit's part was committed, as the store has it."""
        return self.changed[self.plan.part_name(unit)]

    @contextmanager
    def part(self, unit: Unit, **options: Any) -> Iterator[pq.ParquetFile]:
        """Open a unit's part.

        Raises:
            DamagedPartError: it is damaged; also when that shows only inside the block.
            StorageError: it can't be reached.
        """
        name = self.plan.part_name(unit)
        try:
            with self.store.open(name) as file:
                yield pq.ParquetFile(file, **options)
        except (*STORE_ERRORS, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            if is_damage(error):
                raise DamagedPartError(name, f"is damaged: {reason}") from None
            raise StorageError(f"{self.url}/{name} can't be read: {reason}") from error

    def receipts(self, units: Iterable[Unit]) -> dict[Unit, Receipt]:
        """Read the receipts of some parts; those that are damaged are left out."""
        chosen = list(units)
        with ThreadPoolExecutor(RECEIPT_THREADS) as pool:
            found = list(pool.map(self._receipt, chosen))
        return {unit: receipt for unit, receipt in zip(chosen, found, strict=True) if receipt}

    def _receipt(self, unit: Unit) -> Receipt | None:
        try:
            return read_receipt(self.store, self.plan.part_name(unit))
        except JobError:
            return None


def open_output(url: str, s3: S3Settings = ENVIRONMENT) -> Output:
    """Look at an output folder: its plan, and one listing.

    Args:
        url: the folder.
        s3: how S3 is reached.

    Raises:
        JobError: it holds no job, or its plan can't be used.
        StorageError: it can't be reached.
    """
    store = open_store(url, s3)
    try:
        plan = Plan.from_json(store.read(PLAN_NAME))
        return Output(store, plan, _listing(url, s3))
    except FileNotFoundError:
        raise JobError(f"{url} holds no job: there is no {PLAN_NAME} in it") from None
    except ValueError as error:
        raise JobError(f"{url}/{PLAN_NAME} can't be used: {error}") from None
    except STORE_ERRORS as error:
        raise StorageError(f"{url} can't be read: {error}") from error


def _is_result(name: str) -> bool:
    """Whether Parquet readers take a file for a part of the result."""
    return name.endswith(".parquet") and name[0] not in "._"


def _listing(url: str, s3: S3Settings) -> dict[str, float]:
    location = parse_location(url)
    entries = filesystem(location.scheme, s3).ls(location.path, detail=True, refresh=True)
    files = (entry for entry in entries if entry["type"] == "file")
    return {entry["name"].rpartition("/")[2]: _changed(entry) for entry in files}


def _changed(entry: Mapping[str, Any]) -> float:
    """Give a file's time of change, whichever way its filesystem tells it."""
    when = entry.get("mtime", entry.get("LastModified"))
    return when.timestamp() if isinstance(when, datetime) else float(when or 0)
