"""The commit of a unit is its part's existence; the end of a job is that all parts exist."""

import json
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import JobError, listed
from .plan import Plan, Unit, part_units
from .storage import Store

SUCCESS_NAME = "_SUCCESS"
PART_KEY = b"gemmaray.part"
FOOTER_THREADS = 32


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
        begun: when a replica began with it, in unix seconds; 0 where that was not recorded.
        finished: when its last row was answered, likewise.
        replica: which replica that was.
        latencies: rows by the time from submit to answer: index i counts those of [2^i, 2^(i+1))
            ms, index 0 also the shorter ones.
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

    def to_json(self) -> bytes:
        """Spell it out for a footer."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what to_json wrote. Raises ValueError or TypeError for anything else."""
        values = json.loads(data)
        values["latencies"] = values.get("latencies", ())
        lists = {name: tuple(values[name]) for name in ("unit", "source", "latencies")}
        return cls(**{**values, **lists})


def commit(store: Store, plan: Plan, unit: Unit, table: pa.Table) -> Receipt:
    """Write a unit's part, unless it is there.

    Args:
        store: the output.
        plan: the job's.
        unit: which rows these are.
        table: one row for each of the unit's, in their order, with the output's columns.

    Returns:
        The receipt of the part that counts: another run's, if that came first.
    """
    assert table.num_rows == unit.rows, (table.num_rows, unit)
    receipt = _receipt(plan, unit, table)
    metadata = {**(table.schema.metadata or {}), PART_KEY: receipt.to_json()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    name = plan.part_name(unit)
    if store.put_if_absent(name, sink.getvalue().to_pybytes()):
        return receipt
    return read_receipt(store, name)


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
    """Give the receipts of all parts of the plan that exist.

    Raises:
        JobError: a part is damaged or not what its name says.
    """
    units = set(plan.units())
    found = sorted(part_units(store.names(), plan))
    strays = [plan.part_name(unit) for unit in found if unit not in units]
    if strays:
        raise JobError(listed(f"{store.url} holds parts that are not in the plan:", strays))
    names = [plan.part_name(unit) for unit in found]
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        receipts = list(pool.map(lambda name: read_receipt(store, name), names))
    for unit, name, receipt in zip(found, names, receipts, strict=True):
        if (receipt.plan, Unit(*receipt.unit), receipt.rows) != (plan.id, unit, unit.rows):
            raise JobError(f"{store.url}/{name} holds other rows than its name says: remove it")
    return dict(zip(found, receipts, strict=True))


def finish(store: Store, plan: Plan, receipts: dict[Unit, Receipt]) -> None:
    """Check that every unit has its part, and mark the output as complete.

    Raises:
        JobError: parts are missing.
    """
    units = list(plan.units())
    present = part_units(store.names(), plan)
    missing = [plan.part_name(unit) for unit in units if unit not in present]
    if missing:
        head = (
            f"{len(missing)} parts were written but are not in {store.url}: do all nodes of the "
            "cluster see the same folder there?"
        )
        raise JobError(listed(head, missing))
    store.put_if_absent(SUCCESS_NAME, _success(plan, units, receipts))


def _success(plan: Plan, units: Sequence[Unit], receipts: dict[Unit, Receipt]) -> bytes:
    parts = [{"name": plan.part_name(u), "rows": u.rows, **_totals([receipts[u]])} for u in units]
    values: dict[str, Any] = {
        "plan": plan.id,
        "rows": plan.total_rows,
        **_totals(receipts.values()),
        "parts": parts,
    }
    return json.dumps(values, indent=1).encode()


def _totals(receipts: Iterable[Receipt]) -> dict[str, int]:
    return {"failed": sum(receipt.failed for receipt in receipts)}


def _receipt(plan: Plan, unit: Unit, table: pa.Table) -> Receipt:
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
    )


def _sum(table: pa.Table, name: str) -> int:
    return int(pc.sum(table[name]).as_py() or 0) if name in table.schema.names else 0
