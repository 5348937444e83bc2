"""What a part and the end of a job must say for themselves, held against the plan."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .commit import PART_KEY, SUCCESS_NAME, Receipt
from .errors import StorageError
from .inputs import InputFile
from .locations import STORE_ERRORS
from .output import Output
from .plan import Scalar, Unit
from .schema import SOURCE_FIELDS

BATCH_ROWS = 8192
NEEDED = (*SOURCE_FIELDS, pa.field("error", pa.string()))
TOKEN_COLUMNS = ("prompt_tokens", "completion_tokens")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PartCheck:
    """What one part was found to hold.

    Attributes:
        rows: rows of its unit that it holds exactly once.
        failed: rows whose error is filled.
        kept: names of its kept columns.
        aligned: whether it holds its unit's rows and no others, in their order, with the planned
            columns: then its cells can be compared with the input's.
        faults: what is wrong with it.
    """

    rows: int
    failed: int
    kept: tuple[str, ...]
    aligned: bool
    faults: tuple[str, ...]


@dataclass(slots=True)
class _Own:
    """A part's own figures, from its rows."""

    rows: Rows
    elsewhere: int
    failed: int
    tokens: dict[str, int]


def check_part(output: Output, unit: Unit) -> PartCheck:
    """Check the rows and the receipt of a part.

    Raises:
        DamagedPartError: it can't be read.
        StorageError: it can't be reached.
    """
    plan = output.plan
    file = plan.files[unit.file]
    with output.part(unit) as parquet:
        schema, footer = parquet.schema_arrow, parquet.metadata.metadata or {}
        if lacking := _lacking(schema):
            return PartCheck(0, 0, (), aligned=False, faults=(f"it has no {lacking}",))
        kept = schema.names[: schema.get_field_index(SOURCE_FIELDS[0].name)]
        own = _count(parquet, file)
    faults = list(row_faults(own.rows, unit.first, unit.last))
    if own.elsewhere:
        faults.append(f"it holds {counted(own.elsewhere)} not of {file.name}")
    fields = [schema.field(i) for i in range(len(kept))]
    faults += _kept_faults(fields, plan.fingerprint.get("keep"))
    receipt = _receipt_faults(footer.get(PART_KEY, b""), _expected(output, unit, own))
    _, times = np.unique(_inside(own.rows, unit.first, unit.last), return_counts=True)
    rows = int((times == 1).sum()) if not own.elsewhere else 0
    return PartCheck(rows, own.failed, tuple(kept), not faults, (*faults, *receipt))


def counted(rows: int) -> str:
    """Write a number of rows."""
    return f"{rows:,} row" if rows == 1 else f"{rows:,} rows"


def row_faults(rows: Rows, first: int, last: int) -> Iterator[str]:
    """Say in what way some numbers differ from first, first + 1, ..., last - 1."""
    expected = np.arange(first, last)
    if np.array_equal(rows, expected):
        return
    inside = _inside(rows, first, last)
    found, times = np.unique(inside, return_counts=True)
    missing, doubled = np.setdiff1d(expected, found), found[times > 1]
    if len(missing):
        yield f"it lacks {counted(len(missing))}, the first of them row {missing[0]}"
    if len(doubled):
        yield f"it holds {counted(len(doubled))} twice or more, the first of them row {doubled[0]}"
    if len(rows) > len(inside):
        yield f"it holds {counted(len(rows) - len(inside))} of other units"
    if len(missing) + len(doubled) + len(rows) - len(inside) == 0:
        yield f"its rows are out of order from row {expected[rows != expected][0]} on"


def check_success(output: Output, failed: int | None) -> Iterator[str]:
    """Say what is wrong with the mark of a complete job.

    Args:
        output: the folder.
        failed: rows whose error is filled; None where they could not be counted.

    Raises:
        StorageError: it can't be reached.
    """
    plan = output.plan
    if not output.is_complete:
        missing = sum(1 for _ in plan.units()) - len(output.units)
        yield "is missing: " + (
            f"{missing} parts are still to be computed; run the same job again"
            if missing
            else "all parts are there; run the same job again to have it written"
        )
        return
    try:
        said = json.loads(output.store.read(SUCCESS_NAME))
        parts = {part["name"]: part["rows"] for part in said["parts"]}
        totals = {name: said[name] for name in ("plan", "rows", "failed")}
    except (ValueError, KeyError, TypeError) as error:
        yield f"can't be used: {type(error).__name__}: {error}"
        return
    except STORE_ERRORS as error:
        raise StorageError(f"{output.url}/{SUCCESS_NAME} can't be read: {error}") from error
    wanted = {"plan": plan.id, "rows": plan.total_rows, "failed": failed}
    for name, value in wanted.items():
        if value is not None and totals[name] != value:
            yield f"says {name} {totals[name]}, but it is {value}"
    if parts != {plan.part_name(unit): unit.rows for unit in plan.units()}:
        yield "names other parts than the plan"


def _lacking(schema: pa.Schema) -> str | None:
    for field in NEEDED:
        found = schema.get_all_field_indices(field.name)
        if len(found) != 1 or schema.field(found[0]).type != field.type:
            return f"column {field.name!r} of type {field.type}"
    return None


def _count(parquet: pq.ParquetFile, file: InputFile) -> _Own:
    names = [field.name for field in NEEDED]
    tokens = dict.fromkeys(TOKEN_COLUMNS, 0)
    present = [name for name in TOKEN_COLUMNS if name in parquet.schema_arrow.names]
    rows, elsewhere, failed = [np.empty(0, np.int64)], 0, 0
    for batch in parquet.iter_batches(BATCH_ROWS, columns=[*names, *present]):
        here = pc.sum(pc.equal(batch.column("source_file"), file.name)).as_py() or 0
        rows.append(batch.column("source_row").fill_null(-1).to_numpy())
        elsewhere += batch.num_rows - here
        failed += batch.num_rows - batch.column("error").null_count
        for name in present:
            tokens[name] += pc.sum(batch.column(name)).as_py() or 0
    return _Own(np.concatenate(rows), elsewhere, failed, tokens)


def _inside(rows: Rows, first: int, last: int) -> Rows:
    return rows[(rows >= first) & (rows < last)]


def _kept_faults(fields: list[pa.Field], planned: Scalar) -> Iterator[str]:
    if planned is None:
        return
    # Parquet has no seconds: a column of them comes back as milliseconds.
    spelled = ", ".join(f"{field.name}: {field.type}" for field in fields).replace("[s", "[ms")
    if spelled != str(planned).replace("[s", "[ms"):
        yield f"its kept columns are ({spelled}), the plan's are ({planned})"


def _expected(output: Output, unit: Unit, own: _Own) -> dict[str, Any]:
    file = output.plan.files[unit.file]
    return {
        "plan": output.plan.id,
        "unit": (unit.file, unit.first, unit.last),
        "source": (file.name, file.version, file.footer),
        "rows": len(own.rows),
        "failed": own.failed,
        **own.tokens,
    }


def _receipt_faults(data: bytes, expected: dict[str, Any]) -> Iterator[str]:
    try:
        receipt = Receipt.from_json(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        yield f"it has no receipt that can be read: {type(error).__name__}"
        return
    for name, value in expected.items():
        if getattr(receipt, name) != value:
            yield f"its receipt says {name} {getattr(receipt, name)}, but it is {value}"
