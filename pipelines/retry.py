"""Try failed rows again, and put what comes of them into the parts that hold them.

A part is replaced as a whole and at once, under its own name: whoever reads it finds each row once.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from actors.trace import Trace

from .commit import (
    Receipt,
    each_committed,
    finish,
    make_receipt,
    part_bytes,
    read_receipt,
)
from .errors import JobError, JobInterrupted
from .failed_rows import failed_rows, may_pass
from .jobfile import load_job
from .ledger import Ledger
from .packet import ANSWERS, for_rows, rows_of, unit_of, unpacked
from .plan import Plan, Unit
from .reader import ReadOptions, UnitRows
from .report import JobReport
from .run import OnProgress, Run, ready_job
from .s3 import ENVIRONMENT, S3Settings
from .storage import Store, open_store
from .stream import Maker

REPLACE_TRIES = 10


def retry_failed(
    output: str,
    s3: S3Settings = ENVIRONMENT,
    *,
    everything: bool = False,
    on_progress: OnProgress | None = None,
) -> JobReport:
    """Compute the failed rows of an output anew, by the job that it is from.

    Ray must be initialized, and the job's inputs be what they were. Rows that fail again get their
    new error.

    Args:
        output: the folder, local or s3://.
        s3: how S3 is reached; the environment leaves it to the job to say how the rest is.
        everything: also try rows whose error will come again, such as prompts that are too long.
        on_progress: called about twice a second, in this thread.

    Raises:
        JobInterrupted: Ctrl-C was pressed; the parts that were replaced stay.
        GemmarayError: the rows can't be tried.
    """
    started = time.monotonic()
    changes = {"output": output} if s3 == ENVIRONMENT else {"output": output, "s3": s3}
    job = ready_job(load_job(open_store(output, s3)).model_copy(update=changes))
    ledger, units = Ledger(job.plan), []
    failed = retried = 0
    for receipt in each_committed(job.store, job.plan):
        failed += receipt.failed
        worth = _worth_a_try(receipt, everything=everything)
        if worth:
            units.append(Unit(*receipt.unit))
            retried += worth
        else:
            ledger.add(receipt)
    stream = job.stream(len(units))
    stream = replace(
        stream,
        maker=FailedRows(stream.maker, job.store, job.plan, everything=everything),
        work=replace(stream.work, sink=MendedParts(job.store, job.plan, job.schema)),
    )
    run = Run(job, ledger, None, on_progress, started)
    try:
        run.compute(stream, units)
    except JobInterrupted:
        raise JobInterrupted(
            f"interrupted: each part of {job.store.url} is whole, with its old rows or its new "
            "ones; run the same command again to go on"
        ) from None
    if ledger.parts == job.plan.unit_count:
        finish(job.store, job.plan, ledger)
    return replace(run.report(), rows_retried=retried, rows_mended=failed - ledger.failed)


@dataclass(frozen=True, slots=True)
class FailedRows:
    """Makes packets of the rows that failed, and no others.

    Attributes:
        maker: makes packets of all rows.
        store: the output.
        plan: the job's.
        everything: whether errors that will come again are tried, too.
    """

    maker: Maker
    store: Store
    plan: Plan
    everything: bool

    @property
    def columns(self) -> Sequence[str]:
        """The input columns that it needs."""
        return self.maker.columns

    @property
    def read(self) -> ReadOptions:
        """How its rows are read."""
        return self.maker.read

    def packet(self, rows: UnitRows, file_name: str) -> pa.Table:
        """Prepare the failed rows of a unit."""
        places = failed_rows(self._errors(rows.unit), everything=self.everything)
        # Not `take`, which does not know every type of column.
        pieces = [rows.table.slice(place, 1) for place in places]
        table = pa.concat_tables([rows.table.slice(0, 0), *pieces])
        faults = {
            row: rows.faults[place] for row, place in enumerate(places) if place in rows.faults
        }
        packet = self.maker.packet(UnitRows(rows.unit, table, faults), file_name)
        return for_rows(packet, [rows.unit.first + place for place in places])

    def _errors(self, unit: Unit) -> pa.Table:
        with self.store.open(self.plan.part_name(unit)) as file, pq.ParquetFile(file) as part:
            names = {"error_class", "error"} & set(part.schema_arrow.names)
            return part.read(columns=sorted(names))


@dataclass(frozen=True, slots=True)
class MendedParts:
    """Puts the rows of packets into the parts that are there.

    Attributes:
        store: the output.
        plan: the job's.
        schema: of the output.
    """

    store: Store
    plan: Plan
    schema: pa.Schema

    def put(self, packet: pa.Table) -> Receipt:
        """Replace a unit's part by one with the new rows, unless others have mended them by now.

        Raises:
            JobError: the part changes all the time.
        """
        unit = unit_of(packet)
        name = self.plan.part_name(unit)
        for _ in range(REPLACE_TRIES):
            version, old = self.store.version(name), read_receipt(self.store, name)
            part = pq.read_table(pa.BufferReader(self.store.read(name)))
            table = self._mended(part, packet)
            if table is None:
                return old
            trace = Trace(old.begun, old.finished, old.replica, old.latencies)
            receipt = make_receipt(self.plan, unit, table, trace)
            if self.store.replace(name, part_bytes(table, receipt), version):
                return receipt
        raise JobError(f"{self.store.url}/{name} is changed by others all the time: try again")

    def _mended(self, part: pa.Table, packet: pa.Table) -> pa.Table | None:
        """Take the packet's rows where the part's have failed; None if there are none."""
        first, answers = unit_of(packet).first, unpacked(packet, ANSWERS)
        new = {row - first: part.num_rows + place for place, row in enumerate(rows_of(packet))}
        failed = set(failed_rows(part, everything=True)) & new.keys()
        if not failed:
            return None
        rows = [new[row] if row in failed else row for row in range(part.num_rows)]
        columns = []
        for field in self.schema:
            column = _column(part, field)
            if field.name in answers.column_names:
                both = pa.chunked_array([*column.chunks, *answers[field.name].chunks], field.type)
                column = both.take(pa.array(rows, pa.int64()))
            columns.append(column)
        return pa.table(columns, schema=self.schema)


def _column(part: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    """Give a part's column; parts of an older version lack some."""
    if field.name not in part.column_names:
        return pa.chunked_array([pa.nulls(part.num_rows, field.type)])
    column = part[field.name]
    return column if column.type == field.type else column.cast(field.type)


def _worth_a_try(receipt: Receipt, *, everything: bool) -> int:
    """Count the failed rows that are to be tried, as far as the receipt tells them apart."""
    counts = receipt.known_errors()
    return sum(item.count for item in counts if everything or may_pass(item.name))
