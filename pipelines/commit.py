"""The commit of a unit is its part's existence; the end of a job is that all parts exist."""

import json
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from typing import Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.trace import Trace

from .error_counts import OTHER, ErrorCount
from .errors import JobError, listed
from .failed_rows import count_errors
from .plan import Plan, Unit, part_units
from .storage import Store

SUCCESS_NAME = "_SUCCESS"
PART_KEY = b"gemmaray.part"
FOOTER_THREADS = 32
# Footers on their way at a time: a job can have more parts than there is memory for.
FOOTERS_AHEAD = 1024
NO_TRACE = Trace(0.0, 0.0, "", ())


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a committed part holds; it stands in the part's footer.

    Attributes:
        plan: id of the plan that it belongs to.
        unit: (file, first row, last row).
        source: name, version and footer digest of the input file.
        attempt: who wrote it.
        rows: its rows.
        failed: rows whose error is filled.
        prompt_tokens: of all its rows.
        completion_tokens: likewise.
        begun: when a replica began to compute it, in seconds since 1970; 0 if that is not known.
        finished: when it had done so.
        replica: that replica's id.
        latencies: how many rows took [2^i, 2^(i+1)) ms from submit to answer, for i = 0, 1, ...;
            those of less than 2 ms count in the first.
        errors: the failed rows by class.
    """

    plan: str
    unit: tuple[int, int, int]
    source: tuple[str, str, str]
    attempt: str
    rows: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    begun: float = 0.0
    finished: float = 0.0
    replica: str = ""
    latencies: tuple[int, ...] = ()
    errors: tuple[ErrorCount, ...] = ()

    def to_json(self) -> bytes:
        """Spell it out for a footer."""
        errors = [astuple(item) for item in self.errors]
        return json.dumps({**asdict(self), "errors": errors}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what to_json wrote. Raises ValueError or TypeError for anything else."""
        values = json.loads(data)
        # Thousands of receipts name the same plan, files and replicas: they share these strings.
        shared = {name: sys.intern(values[name]) for name in ("plan", "replica") if name in values}
        lists = {name: tuple(values[name]) for name in ("unit", "latencies") if name in values}
        errors = tuple(ErrorCount(*item) for item in values.get("errors", ()))
        source = tuple(map(sys.intern, values["source"]))
        return cls(**{**values, **shared, **lists, "source": source, "errors": errors})

    def known_errors(self) -> tuple[ErrorCount, ...]:
        """Give the failed rows by class, also of a part whose receipt does not count them."""
        counted = sum(item.count for item in self.errors)
        rest = (ErrorCount(OTHER, self.failed - counted),) if self.failed > counted else ()
        return (*self.errors, *rest)


class Counted(Protocol):
    """What `finish` asks of what is known about each unit: receipts by unit, or a Ledger."""

    def __getitem__(self, unit: Unit, /) -> "Failed":
        """Tell how many rows failed. Raises KeyError where there is no part."""
        ...


class Failed(Protocol):
    """A count of failed rows."""

    @property
    def failed(self) -> int:
        """How many."""
        ...


def commit(
    store: Store, plan: Plan, unit: Unit, table: pa.Table, trace: Trace = NO_TRACE
) -> Receipt:
    """Write a unit's part, unless it is there.

    Args:
        store: the output.
        plan: the job's.
        unit: which rows these are.
        table: one row for each of the unit's, in their order, with the output's columns.
        trace: who computed it, and when.

    Returns:
        The receipt of the part that counts: another run's, if that came first.
    """
    assert table.num_rows == unit.rows, (table.num_rows, unit)
    receipt = make_receipt(plan, unit, table, trace)
    name = plan.part_name(unit)
    if store.put_if_absent(name, part_bytes(table, receipt)):
        return receipt
    return read_receipt(store, name)


def part_bytes(table: pa.Table, receipt: Receipt) -> bytes:
    """Write a part as Parquet, its receipt in the footer."""
    metadata = {**(table.schema.metadata or {}), PART_KEY: receipt.to_json()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_receipt(store: Store, name: str) -> Receipt:
    """Read a part's receipt and check it against the part.

    Raises:
        JobError: it is no part of ours, or damaged.
    """
    try:
        with store.open(name) as file:
            metadata = pq.read_metadata(file)
        receipt = Receipt.from_json((metadata.metadata or {})[PART_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"{store.url}/{name} is damaged ({' '.join(str(error).split())}): remove it, and run "
            "the job again to have its rows computed anew"
        ) from None
    if receipt.rows != metadata.num_rows:
        raise JobError(f"{store.url}/{name} holds {metadata.num_rows} rows, not {receipt.rows}")
    return receipt


def committed(store: Store, plan: Plan) -> dict[Unit, Receipt]:
    """Give the receipts of all parts of the plan that exist, in source order.

    Raises:
        JobError: a part is damaged or not what its name says.
    """
    return {Unit(*receipt.unit): receipt for receipt in each_committed(store, plan)}


def each_committed(store: Store, plan: Plan) -> Iterator[Receipt]:
    """Give the receipts as `committed` does, but never hold all of them."""
    names = store.names()
    found = sorted(part_units(names, plan))
    strays = [plan.part_name(unit) for unit in found if not plan.holds(unit)]
    if strays:
        raise JobError(listed(f"{store.url} holds parts that are not in the plan:", strays))
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        for start in range(0, len(found), FOOTERS_AHEAD):
            some = found[start : start + FOOTERS_AHEAD]
            yield from pool.map(lambda unit: _read_checked(store, plan, unit), some)


def _read_checked(store: Store, plan: Plan, unit: Unit) -> Receipt:
    name = plan.part_name(unit)
    receipt = read_receipt(store, name)
    if (receipt.plan, Unit(*receipt.unit), receipt.rows) != (plan.id, unit, unit.rows):
        raise JobError(f"{store.url}/{name} holds other rows than its name says: remove it")
    return receipt


def finish(store: Store, plan: Plan, receipts: Counted) -> None:
    """Check that every unit has its part, and mark the output as complete.

    The mark says what the parts say: one from before rows were tried again is replaced.

    Args:
        store: the output.
        plan: the job's.
        receipts: what is known of each unit's part.

    Raises:
        JobError: parts are missing.
    """
    present = store.names()
    missing = [name for unit in plan.units() if (name := plan.part_name(unit)) not in present]
    if missing:
        head = (
            f"{len(missing)} parts were written but are not in {store.url}: do all nodes of the "
            "cluster see the same folder there?"
        )
        raise JobError(listed(head, missing))
    mark = _success(plan, receipts)
    while not store.put_if_absent(SUCCESS_NAME, mark):
        version = store.version(SUCCESS_NAME)
        if store.read(SUCCESS_NAME) == mark or store.replace(SUCCESS_NAME, mark, version):
            return


def _success(plan: Plan, receipts: Counted) -> bytes:
    failed, parts = 0, []
    for unit in plan.units():
        count = receipts[unit].failed
        failed += count
        part = {"name": plan.part_name(unit), "rows": unit.rows, "failed": count}
        parts.append(json.dumps(part))
    head = json.dumps({"plan": plan.id, "rows": plan.total_rows, "failed": failed}, indent=1)
    listing = ",\n  ".join(parts)
    return f'{head[:-2]},\n "parts": [\n  {listing}\n ]\n}}'.encode()


def make_receipt(plan: Plan, unit: Unit, table: pa.Table, trace: Trace) -> Receipt:
    """Sum up a unit's rows."""
    file = plan.files[unit.file]
    return Receipt(
        plan=plan.id,
        unit=(unit.file, unit.first, unit.last),
        source=(file.name, file.version, file.footer),
        attempt=uuid.uuid4().hex,
        rows=table.num_rows,
        failed=table.num_rows - table["error"].null_count,
        prompt_tokens=_sum(table, "prompt_tokens"),
        completion_tokens=_sum(table, "completion_tokens"),
        begun=trace.begun,
        finished=trace.finished,
        replica=trace.replica,
        latencies=trace.latencies,
        errors=count_errors(table, file.name, unit.first),
    )


def _sum(table: pa.Table, name: str) -> int:
    return int(pc.sum(table[name]).as_py() or 0) if name in table.schema.names else 0
