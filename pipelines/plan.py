"""The plan of a job: what decides its results, its inputs, and the units it is committed in.

It is written once, before the first row is computed, and never changed. Whoever runs the same job
again finds it, and goes on with the units that have no part yet; another job is told apart by it.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from math import ceil
from typing import Any, Self

from .errors import JobError, PlanMismatch, listed
from .inputs import InputFile
from .locations import STORE_ERRORS
from .placement import Placement
from .quarantine import BadFile
from .storage import Store

PLAN_NAME = "_job/plan.json"
QUARANTINE_NAME = "_job/quarantine.json"
FORMAT = 2

# A unit is long enough that its overhead does not count (0.2 s of a CPU), and short enough that
# little is lost with it: a GPU takes a minute or so for the longest, a CPU a few.
MIN_UNIT_ROWS = 32
MAX_UNIT_ROWS = {"cpu": 256, "cuda": 2048}
UNITS_PER_REPLICA = 8

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """Rows [first, last) of an input file: what is computed and committed together."""

    file: int
    first: int
    last: int

    @property
    def rows(self) -> int:
        """How many there are; 0 for the one unit of a file without rows."""
        return self.last - self.first

    @property
    def key(self) -> str:
        """What file names call it; keys sort as units do."""
        return f"{self.file:06d}-{self.first:012d}-{self.last:012d}"

    @classmethod
    def from_key(cls, key: str) -> Self:
        """Read what `key` gave. Raises ValueError."""
        file, first, last = map(int, key.split("-"))
        return cls(file, first, last)


@dataclass(frozen=True)
class Plan:
    """What a run must agree on with the runs before it.

    Attributes:
        fingerprint: what decides the results, name to value.
        files: the inputs.
        rows: how many rows of each file are part of the job.
        unit_rows: rows per unit; the last unit of a file may have fewer.
        seed: what the rows' sampling seeds are made from.
        quarantine: inputs that take no part, since they can't be used.
    """

    fingerprint: Mapping[str, Scalar]
    files: tuple[InputFile, ...]
    rows: tuple[int, ...]
    unit_rows: int
    seed: int
    quarantine: tuple[BadFile, ...] = ()

    @property
    def total_rows(self) -> int:
        """Rows of the whole job."""
        return sum(self.rows)

    @cached_property
    def id(self) -> str:
        """Digest of everything in it but where the inputs lie: 64 hex digits."""
        values = self._values()
        for file in (*values["files"], *values["quarantine"]):
            del file["path"]
        for file in values["quarantine"]:
            del file["reason"]  # in the words of a library, which change
        return hashlib.sha256(_spelled(values)).hexdigest()

    def units(self) -> Iterator[Unit]:
        """Cut the rows into units, in source order. A file without rows is one empty unit."""
        for index, (file, rows) in enumerate(zip(self.files, self.rows, strict=True)):
            if file.rows == 0:
                yield Unit(index, 0, 0)
            for first in range(0, rows, self.unit_rows):
                yield Unit(index, first, min(first + self.unit_rows, rows))

    def part_name(self, unit: Unit) -> str:
        """Name a unit's part; parts sort by name as their rows do by source."""
        return f"part-{self.id[:8]}-{unit.key}.parquet"

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """How many units stand before each file's, and how many there are."""
        counts = (
            1 if file.rows == 0 else ceil(rows / self.unit_rows)
            for file, rows in zip(self.files, self.rows, strict=True)
        )
        return tuple(accumulate(counts, initial=0))

    @property
    def unit_count(self) -> int:
        """How many units there are."""
        return self._starts[-1]

    def holds(self, unit: Unit) -> bool:
        """Whether a unit is one of the plan's."""
        if not unit.file < len(self.files):
            return False
        rows = self.rows[unit.file]
        if unit.first == unit.last == 0:
            return self.files[unit.file].rows == 0
        last = min(unit.first + self.unit_rows, rows)
        return unit.first % self.unit_rows == 0 and unit.first < unit.last == last

    def index(self, unit: Unit) -> int:
        """Give a unit's place among all of them."""
        return self._starts[unit.file] + unit.first // self.unit_rows

    def to_json(self) -> bytes:
        """Spell it out; equal plans give equal bytes."""
        return _spelled(self._values())

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what to_json wrote.

        Raises:
            ValueError: it is something else.
        """
        values = json.loads(data)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        try:
            files = tuple(map(InputFile.from_json, values.pop("files")))
            bad = tuple(BadFile(**file) for file in values.pop("quarantine"))
            return cls(files=files, quarantine=bad, rows=tuple(values.pop("rows")), **values)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is damaged: {error}") from None

    def _values(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "fingerprint": dict(self.fingerprint)}


def part_units(names: Iterable[str], plan: Plan) -> set[Unit]:
    """Pick the names that are parts of this plan, and give the units they hold."""
    pattern = re.compile(rf"part-{plan.id[:8]}-(\d+)-(\d+)-(\d+)\.parquet")
    matches = (pattern.fullmatch(name) for name in names)
    return {Unit(*map(int, match.groups())) for match in matches if match}


def make_plan(
    fingerprint: Mapping[str, Scalar],
    files: Sequence[InputFile],
    *,
    limit: int | None,
    unit_rows: int | None,
    placement: Placement,
    seed: int | None,
    quarantine: Sequence[BadFile] = (),
) -> Plan:
    """Plan a job from the start.

    Args:
        fingerprint: what decides the results.
        files: the inputs.
        limit: rows of the whole job at most, from its start.
        unit_rows: rows per unit; None chooses by the size of the job and what it runs on.
        placement: what it runs on.
        seed: None draws one.
        quarantine: inputs that take no part.
    """
    rows, left = [], limit
    for file in files:
        rows.append(file.rows if left is None else min(file.rows, left))
        left = None if left is None else left - rows[-1]
    if unit_rows is None:
        share = sum(rows) // (UNITS_PER_REPLICA * placement.most)
        unit_rows = min(MAX_UNIT_ROWS[placement.device], max(MIN_UNIT_ROWS, share))
    if seed is None:
        seed = secrets.randbits(63)
    return Plan(fingerprint, tuple(files), tuple(rows), unit_rows, seed, tuple(quarantine))


def join_or_start(store: Store, mine: Plan, *, unit_rows_given: bool) -> tuple[Plan, bool]:
    """Make this job's plan the output's, or take over the equal one that is there.

    Args:
        store: the output.
        mine: the plan of this run.
        unit_rows_given: whether its unit_rows is the user's choice.

    Returns:
        The plan that holds, and whether it was there before.

    Raises:
        PlanMismatch: the output belongs to another job; it says in what they differ.
        JobError: there is a plan that can't be read.
    """
    if store.put_if_absent(PLAN_NAME, mine.to_json()):
        return mine, False
    return join(store, mine, unit_rows_given=unit_rows_given), True


def join(store: Store, mine: Plan, *, unit_rows_given: bool) -> Plan:
    """Take over the plan that the output has, which must equal this one.

    Raises:
        FileNotFoundError: it has none.
        PlanMismatch, JobError: as `join_or_start`.
    """
    try:
        theirs = Plan.from_json(store.read(PLAN_NAME))
    except ValueError as error:
        raise JobError(f"{store.url}/{PLAN_NAME} can't be used: {error}") from None
    differences = list(_differences(theirs, mine))
    if unit_rows_given and mine.unit_rows != theirs.unit_rows:
        differences.append(_changed("unit_rows", theirs.unit_rows, mine.unit_rows))
    if differences:
        head = f"{store.url} holds another job's results; undo this, or choose another output:"
        raise PlanMismatch(listed(head, differences))
    return replace(theirs, files=mine.files)  # the same files may lie elsewhere by now


def planned_files(store: Store) -> tuple[InputFile, ...]:
    """Give the inputs of the plan that is in an output; none if there is no plan to go by."""
    try:
        return Plan.from_json(store.read(PLAN_NAME)).files
    except (*STORE_ERRORS, ValueError):
        return ()


def record_quarantine(store: Store, plan: Plan) -> None:
    """Write down, for people, which files the plan leaves out and why."""
    if plan.quarantine:
        listing = [asdict(file) for file in plan.quarantine]
        store.put_if_absent(
            QUARANTINE_NAME, json.dumps(listing, indent=1, ensure_ascii=False).encode()
        )


def row_seed(seed: int, file: str, row: int) -> int:
    """Give a row's sampling seed: 63 bits that depend on the job's seed and the row's identity."""
    digest = hashlib.blake2b(f"{seed}/{row}/{file}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1


def _spelled(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _differences(theirs: Plan, mine: Plan) -> Iterator[str]:
    for name in dict.fromkeys((*theirs.fingerprint, *mine.fingerprint)):
        old, new = theirs.fingerprint.get(name), mine.fingerprint.get(name)
        if old != new:
            yield _changed(name, old, new)
    old_files, new_files = _all_files(theirs), _all_files(mine)
    for name in dict.fromkeys((*old_files, *new_files)):
        yield from _file_differences(name, old_files.get(name), new_files.get(name))


def _all_files(plan: Plan) -> dict[str, InputFile | BadFile]:
    files: list[InputFile | BadFile] = [*plan.files, *plan.quarantine]
    return {file.name: file for file in files}


def _file_differences(
    name: str, old: InputFile | BadFile | None, new: InputFile | BadFile | None
) -> Iterator[str]:
    if new is None:
        yield f"input {name}: it is gone"
    elif old is None:
        yield f"input {name}: it is new"
    elif isinstance(old, BadFile) and isinstance(new, InputFile):
        yield f"input {name}: it was quarantined since it {old.reason}; now it can be read"
    elif isinstance(old, InputFile) and isinstance(new, BadFile):
        yield f"input {name}: it could be read; now it {new.reason}"
    else:
        for field in ("size", "version", "footer", "groups", "format", "columns", "partitions"):
            was, is_now = getattr(old, field, None), getattr(new, field, None)
            if was != is_now:
                yield _changed(f"input {name}: {field}", was, is_now)
                return


def _changed(name: str, old: Any, new: Any) -> str:
    return f"{name}: was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
