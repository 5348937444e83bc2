"""Proof that an output holds each input row exactly once, with the kept columns as they were.

Every part is streamed beside the rows of the input that it stands for. Columns that were computed
are not read: nothing is known that they could be compared with.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate

import pyarrow as pa

from .commit import SUCCESS_NAME
from .errors import InputError, JobError
from .inputs import InputFile
from .jobfile import load_job
from .kept_check import Read, kept_faults
from .locations import STORE_ERRORS
from .output import DamagedPartError, Output, open_output
from .part_check import check_part, check_success
from .plan import Unit
from .reader import ReadOptions, read_units
from .s3 import ENVIRONMENT, S3Settings
from .storage import Store

PART_THREADS = 8
# Units that one thread checks one after the other, reading the input through without going back.
UNITS_PER_RUN = 16
# More are counted and not kept.
MOST_FINDINGS = 1000

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        where: the file of the output.
        what: is wrong with it.
    """

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found out about an output.

    Attributes:
        output: the folder.
        plan: id of its plan.
        parts: planned parts that are there.
        parts_planned: how many there must be.
        rows: planned rows that were found exactly once.
        rows_planned: how many there must be.
        rows_failed: rows whose error is filled.
        kept: names of the kept columns.
        rows_compared: rows whose kept columns were compared with the input.
        faults: how many findings there are.
        findings: the first of them, in the order of the parts.
        unchecked: what could not be checked, and why.
    """

    output: str
    plan: str
    parts: int
    parts_planned: int
    rows: int
    rows_planned: int
    rows_failed: int
    kept: tuple[str, ...]
    rows_compared: int
    faults: int
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]

    @property
    def proven(self) -> bool:
        """Whether all that was to be shown was shown."""
        return not self.faults and not self.unchecked


@dataclass(slots=True)
class _Tally:
    """What was found in so many units' parts."""

    rows: int = 0
    failed: int = 0
    compared: int = 0
    units: int = 0
    kept: tuple[str, ...] = ()
    faults: int = 0
    findings: list[Finding] = field(default_factory=list)

    def note(self, where: str, *faults: str) -> None:
        self.faults += len(faults)
        room = MOST_FINDINGS - len(self.findings)
        self.findings += [Finding(where, fault) for fault in faults[:room]]

    def add(self, other: "_Tally") -> None:
        self.rows += other.rows
        self.failed += other.failed
        self.compared += other.compared
        self.units += other.units
        self.kept = self.kept or other.kept
        self.faults += other.faults
        self.findings += other.findings[: MOST_FINDINGS - len(self.findings)]


def verify(
    url: str,
    s3: S3Settings = ENVIRONMENT,
    *,
    with_input: bool = True,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Verification:
    """Check an output against its plan, and its kept columns against the input.

    Args:
        url: the output folder.
        s3: how S3 is reached; the environment leaves it to the job to say where its input is.
        with_input: read the input again. Without it, kept columns are not compared.
        on_progress: called with the number of parts that were looked at, and of all.

    Raises:
        JobError: it is no output of a job, or can't be reached; an input changes meanwhile.
    """
    output = open_output(url, s3)
    read = partial(read_units, options=_read_options(output.store, s3))
    plan, tally = output.plan, _Tally()
    for name in output.strays:
        tally.note(name, "is no part of this plan, but whoever reads the folder reads it too")
    gone = _unreadable(plan.files, read) if with_input else {}
    readable = frozenset(range(len(plan.files)) if with_input else ()) - gone.keys()
    checker = _Checker(output, readable, read)
    total = sum(1 for _ in plan.units())
    with ThreadPoolExecutor(PART_THREADS) as pool:
        for found in pool.map(checker.check, runs(plan.files, plan.units())):
            tally.add(found)
            on_progress(tally.units, total)
    failed = None if tally.faults else tally.failed
    tally.note(SUCCESS_NAME, *check_success(output, failed))
    return Verification(
        output=output.url,
        plan=plan.id,
        parts=len(output.units),
        parts_planned=total,
        rows=tally.rows,
        rows_planned=plan.total_rows,
        rows_failed=tally.failed,
        kept=tally.kept,
        rows_compared=tally.compared,
        faults=tally.faults,
        findings=tuple(tally.findings),
        unchecked=tuple(gone.values()),
    )


def runs(files: Sequence[InputFile], units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Cut units into runs that are read through one after the other, each from one file.

    A row group can only be read from its start, so a run goes on to the end of the row group that
    it begins in.
    """
    run: list[Unit] = []
    for unit in units:
        if run and (unit.file != run[0].file or _is_full(run, files[unit.file])):
            yield run
            run = []
        run.append(unit)
    if run:
        yield run


class _Checker:
    """Checks runs of parts, for several threads at a time.

    Args:
        output: where the parts are.
        readable: input files that the kept columns can be compared with.
        read: reads them.
    """

    def __init__(self, output: Output, readable: frozenset[int], read: Read) -> None:
        self._output = output
        self._read = read
        self._present = frozenset(output.units)
        self._readable = readable

    def check(self, run: list[Unit]) -> _Tally:
        """Check the parts of one run."""
        tally = _Tally(units=len(run))
        aligned = {unit for unit in run if self._is_aligned(unit, tally)}
        if aligned and tally.kept and run[0].file in self._readable:
            for unit, faults in kept_faults(self._output, run, aligned, tally.kept, self._read):
                tally.note(self._output.plan.part_name(unit), *faults)
                tally.compared += unit.rows
        return tally

    def _is_aligned(self, unit: Unit, tally: _Tally) -> bool:
        """Check a part's rows, and tell whether its cells can be compared with the input's."""
        name = self._output.plan.part_name(unit)
        if unit not in self._present:
            tally.note(name, "is missing")
            return False
        try:
            part = check_part(self._output, unit)
        except DamagedPartError as error:
            tally.note(name, error.reason)
            return False
        tally.note(name, *part.faults)
        tally.rows += part.rows
        tally.failed += part.failed
        if part.aligned:
            tally.kept = tally.kept or part.kept
        return part.aligned


def _is_full(run: Sequence[Unit], file: InputFile) -> bool:
    if len(run) < UNITS_PER_RUN:
        return False
    ends = accumulate(file.spans)
    end = next((end for end in ends if end > run[0].first), 0)
    return run[-1].last >= end


def _read_options(store: Store, s3: S3Settings) -> ReadOptions:
    """Read the input as the job did; outputs of older versions do not say how."""
    try:
        options = ReadOptions.of(load_job(store))
    except JobError:
        return ReadOptions(s3=s3)
    return options if s3 == ENVIRONMENT else replace(options, s3=s3)


def _unreadable(files: Sequence[InputFile], read: Read) -> dict[int, str]:
    """Find the input files that can't be compared with any more, and say why."""
    with ThreadPoolExecutor(PART_THREADS) as pool:
        faults = list(pool.map(partial(_input_fault, read), files))
    return {index: fault for index, fault in enumerate(faults) if fault}


def _input_fault(read: Read, file: InputFile) -> str | None:
    try:
        next(read(file, [Unit(0, 0, 0)], ()))
    except InputError as error:
        return str(error)
    except (*STORE_ERRORS, ValueError, pa.ArrowException) as error:
        return f"{file.path} can't be read any more: {' '.join(str(error).split())}"
    return None
