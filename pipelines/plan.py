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
from typing import Any, Self

from .errors import JobError, PlanMismatch, listed
from .inputs import InputFile
from .placement import Placement
from .storage import Store

PLAN_NAME = "_job/plan.json"
FORMAT = 1

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


@dataclass(frozen=True)
class Plan:
    """What a run must agree on with the runs before it.

    Attributes:
        fingerprint: what decides the results, name to value.
        files: the inputs.
        rows: how many rows of each file are part of the job.
        unit_rows: rows per unit; the last unit of a file may have fewer.
        seed: what the rows' sampling seeds are made from.
    """

    fingerprint: Mapping[str, Scalar]
    files: tuple[InputFile, ...]
    rows: tuple[int, ...]
    unit_rows: int
    seed: int

    @property
    def total_rows(self) -> int:
        """Rows of the whole job."""
        return sum(self.rows)

    @cached_property
    def id(self) -> str:
        """Digest of everything in it but where the inputs lie: 64 hex digits."""
        values = self._values()
        for file in values["files"]:
            del file["path"]
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
        return f"part-{self.id[:8]}-{unit.file:06d}-{unit.first:012d}-{unit.last:012d}.parquet"

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
            files = [InputFile(**{**f, "groups": tuple(f["groups"])}) for f in values.pop("files")]
            return cls(files=tuple(files), rows=tuple(values.pop("rows")), **values)
        except (TypeError, KeyError) as error:
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
) -> Plan:
    """Plan a job from the start.

    Args:
        fingerprint: what decides the results.
        files: the inputs.
        limit: rows of the whole job at most, from its start.
        unit_rows: rows per unit; None chooses by the size of the job and what it runs on.
        placement: what it runs on.
        seed: None draws one.
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
    return Plan(fingerprint, tuple(files), tuple(rows), unit_rows, seed)


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
    old_files = {file.name: file for file in theirs.files}
    new_files = {file.name: file for file in mine.files}
    for name in dict.fromkeys((*old_files, *new_files)):
        if name not in new_files:
            yield f"input {name}: it is gone"
        elif name not in old_files:
            yield f"input {name}: it is new"
        else:
            yield from _file_differences(old_files[name], new_files[name])


def _file_differences(old: InputFile, new: InputFile) -> Iterator[str]:
    for name in ("size", "version", "footer", "groups"):
        if getattr(old, name) != getattr(new, name):
            yield _changed(f"input {old.name}: {name}", getattr(old, name), getattr(new, name))
            return


def _changed(name: str, old: Any, new: Any) -> str:
    return f"{name}: was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
