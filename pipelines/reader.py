"""The rows of units, read from their file. What can't be read becomes rows that say why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import InputError
from .inputs import InputFile, footer_digest, open_parquet
from .plan import Unit

BATCH_ROWS = 1024
READ_BUFFER = 4 << 20


@dataclass(frozen=True, slots=True)
class UnitRows:
    """A unit's rows.

    Attributes:
        unit: which.
        table: its columns; null in rows that could not be read.
        faults: row in the table to the reason, for rows that could not be read.
    """

    unit: Unit
    table: pa.Table
    faults: dict[int, str]


@dataclass(frozen=True, slots=True)
class _Unreadable:
    rows: int
    reason: str


def read_units(
    file: InputFile, units: Sequence[Unit], columns: Sequence[str] | None
) -> Iterator[UnitRows]:
    """Read units of one file that follow each other without a gap, one after the other.

    Raises:
        InputError: the file changed since the plan was made.
    """
    if footer_digest(file.path) != file.footer:
        raise InputError(f"{file.path} changed since the job was planned")
    with open_parquet(file.path, buffer_size=READ_BUFFER) as parquet:
        schema = parquet.schema_arrow
        names = [name for name in schema.names if columns is None or name in columns]
        schema = pa.schema([schema.field(name).with_nullable(nullable=True) for name in names])
        pieces = _pieces(file, parquet, names, units[0].first, units[-1].last)
        rest: pa.Table | _Unreadable | None = None
        for unit in units:
            tables, have = [schema.empty_table()], 0
            faults: dict[int, str] = {}
            while have < unit.rows:
                piece = rest if rest is not None else next(pieces)
                piece, rest = _split(piece, unit.rows - have)
                if isinstance(piece, _Unreadable):
                    faults |= dict.fromkeys(range(have, have + piece.rows), piece.reason)
                tables.append(_as_table(piece, schema))
                have += tables[-1].num_rows
            yield UnitRows(unit, pa.concat_tables(tables), faults)


def _pieces(
    file: InputFile, parquet: pq.ParquetFile, names: list[str], first: int, last: int
) -> Iterator[pa.Table | _Unreadable]:
    start = 0
    for group, rows in enumerate(file.groups):
        low, high = max(first - start, 0), min(last - start, rows)
        if low < high:
            yield from _group_pieces(file, parquet, names, group, low, high)
        start += rows


def _group_pieces(
    file: InputFile, parquet: pq.ParquetFile, names: list[str], group: int, low: int, high: int
) -> Iterator[pa.Table | _Unreadable]:
    """Read rows [low, high) of a row group, as far as they can be read.

    Batches are cut from the group's start, so the same rows are lost to a damaged page whichever
    units are asked for.
    """
    at = 0
    try:
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
            begin, end = max(low, at), min(high, at + batch.num_rows)
            if begin < end:
                yield pa.Table.from_batches([batch.slice(begin - at, end - begin)])
            at += batch.num_rows
            if at >= high:
                return
        reason = f"row group {group} holds {at} rows, its footer says {file.groups[group]}"
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        reason = f"row group {group} can't be read: {' '.join(str(error).split())}"
    yield _Unreadable(high - max(low, at), reason)


def is_damage(error: Exception) -> bool:
    """Tell a damaged page, which stays so, from a file that can't be reached just now.

    Arrow's own findings carry no errno; those of the system, and of s3fs, do.
    """
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def _split(
    piece: pa.Table | _Unreadable, rows: int
) -> tuple[pa.Table | _Unreadable, pa.Table | _Unreadable | None]:
    """Cut a piece behind so many rows; the rest is None if nothing is left."""
    if isinstance(piece, _Unreadable):
        rest = _Unreadable(piece.rows - rows, piece.reason) if piece.rows > rows else None
        return _Unreadable(min(rows, piece.rows), piece.reason), rest
    return piece.slice(0, rows), piece.slice(rows) if piece.num_rows > rows else None


def _as_table(piece: pa.Table | _Unreadable, schema: pa.Schema) -> pa.Table:
    if isinstance(piece, pa.Table):
        return piece.select(schema.names).cast(schema)
    return pa.table([pa.nulls(piece.rows, field.type) for field in schema], schema=schema)
