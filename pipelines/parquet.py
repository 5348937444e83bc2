"""Parquet files: their footers, checked before a job reads them, and their rows."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .s3 import ENVIRONMENT, S3Settings
from .source_file import Contents, Rows, is_damage, open_input

# Enough for the first page of a column; without it, whole column chunks would be read.
PROBE_BUFFER = 1 << 16
# Rows so large are not read to find out whether they can be: many files are looked at at a time.
PROBE_ROW_BYTES = 1 << 20
TAIL_BYTES = 1 << 16
READ_BUFFER = 4 << 20
# Rows are decoded in batches of so many, and fewer where they are large.
BATCH_ROWS = 1024
BATCH_BYTES = 64 << 20
MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"


def open_parquet(path: str, s3: S3Settings = ENVIRONMENT, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file, local or on S3."""
    return parquet_of(open_input(path, s3), **options)


def parquet_of(file: BinaryIO, **options: Any) -> pq.ParquetFile:
    """Read an open file as Parquet: page by page, and pages with a checksum checked against it.

    Otherwise Arrow would hold all that is read of a row group in memory at once.
    """
    return pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True, **options)


def footer_digest(file: BinaryIO) -> str:
    """Digest an open Parquet file's footer, which holds the place of every page.

    Raises:
        ValueError: it is no Parquet file, or an encrypted one.
    """
    return hashlib.sha256(_footer(file)).hexdigest()


def inspect_parquet(file: BinaryIO, columns: Sequence[str] | None) -> Contents:
    """Look at what a job needs to know of a Parquet file.

    Args:
        file: an open file.
        columns: those that will be read; None is all of them.

    Raises:
        ValueError: it can't be used; the message goes on behind the file's name.
        OSError, ArrowException: it is damaged, or can't be reached.
    """
    footer = _footer(file)
    # Ray Data unpickles what such columns carry in their metadata, and opening the file is enough
    # for that (CVE-2026-41486). The Arrow schema stands in the footer as base64.
    if any(spelling in footer for spelling in _in_base64(b"ray.data.")):
        raise ValueError("has columns of a ray.data extension type, which are not read")
    parquet = parquet_of(file, buffer_size=PROBE_BUFFER)
    metadata = parquet.metadata
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if sum(groups) != metadata.num_rows or min(groups, default=0) < 0:
        raise ValueError("contradicts itself: its footer counts rows in two ways")
    schema = parquet.schema_arrow
    wanted = [name for name in schema.names if columns is None or name in columns]
    if row_bytes(metadata, 0) <= PROBE_ROW_BYTES:
        _try_first_row(parquet, wanted, metadata.num_rows)
    return Contents(hashlib.sha256(footer).hexdigest(), groups, schema)


def parquet_rows(
    file: BinaryIO, groups: Sequence[int], columns: Sequence[str] | None, first: int, last: int
) -> Iterator[Rows]:
    """Read rows [first, last) of an open file. What can't be read becomes rows that say why.

    Args:
        file: an open file.
        groups: rows of each row group.
        columns: those to read; None is all of them. If it has none of them, the first is read,
            since rows without columns can't be counted.
        first: where to begin.
        last: where to end.

    Yields:
        First no rows, but the columns; then all rows in pieces.
    """
    parquet = parquet_of(file, buffer_size=READ_BUFFER)
    schema = parquet.schema_arrow
    names = [name for name in schema.names if columns is None or name in columns]
    names = names or schema.names[:1]
    schema = pa.schema([schema.field(name).with_nullable(nullable=True) for name in names])
    yield Rows(schema.empty_table(), {})
    start = 0
    for group, rows in enumerate(groups):
        low, high = max(first - start, 0), min(last - start, rows)
        if low < high:
            yield from _group_rows(parquet, schema, group, low, high)
        start += rows


def row_bytes(metadata: pq.FileMetaData, group: int) -> int:
    """Give the mean size of a row group's rows, uncompressed, all columns together."""
    if group >= metadata.num_row_groups:
        return 0
    of_group = metadata.row_group(group)
    size: int = max(0, of_group.total_byte_size) // max(1, of_group.num_rows)
    return size


def _group_rows(
    parquet: pq.ParquetFile, schema: pa.Schema, group: int, low: int, high: int
) -> Iterator[Rows]:
    """Read rows [low, high) of a row group, as far as they can be read.

    Batches are cut from the group's start, so the same rows are lost to a damaged page whichever
    units are asked for.
    """
    at = 0
    size = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes(parquet.metadata, group))))
    try:
        for batch in parquet.iter_batches(size, row_groups=[group], columns=schema.names):
            begin, end = max(low, at), min(high, at + batch.num_rows)
            if begin < end:
                table = pa.Table.from_batches([batch.slice(begin - at, end - begin)])
                yield Rows(table.select(schema.names).cast(schema), {})
            at += batch.num_rows
            if at >= high:
                return
        count = parquet.metadata.row_group(group).num_rows
        reason = f"row group {group} holds {at} rows, its footer says {count}"
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        reason = f"row group {group} can't be read: {' '.join(str(error).split())}"
    yield from _unreadable(schema, high - max(low, at), reason)


def _unreadable(schema: pa.Schema, count: int, reason: str) -> Iterator[Rows]:
    for at in range(0, count, BATCH_ROWS):
        rows = min(BATCH_ROWS, count - at)
        columns = [pa.nulls(rows, field.type) for field in schema]
        yield Rows(pa.table(columns, schema=schema), dict.fromkeys(range(rows), reason))


def _footer(file: BinaryIO) -> bytes:
    size = file.seek(0, 2)
    if size == 0:
        raise ValueError("is empty (0 bytes)")
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    if tail[-4:] == ENCRYPTED_MAGIC:
        raise ValueError("is encrypted")
    if size < 12 or tail[-4:] != MAGIC:
        raise ValueError("is no Parquet file, or cut off")
    length = int.from_bytes(tail[-8:-4], "little")
    if length > size - 12:
        raise ValueError("is cut off or damaged: its footer is longer than the file")
    if length > len(tail) - 8:
        file.seek(size - 8 - length)
        return file.read(length)
    return tail[len(tail) - 8 - length : -8]


def _in_base64(word: bytes) -> list[bytes]:
    """Spell a word as it occurs within base64, depending on where in it it starts."""
    starts = ((b"", 0), (b".", 2), (b"..", 3))
    whole = [(b64encode(pad + word), skip, len(pad + word)) for pad, skip in starts]
    return [text[skip : size * 4 // 3] for text, skip, size in whole]


def _try_first_row(parquet: pq.ParquetFile, columns: list[str], rows: int) -> None:
    """Find out about files that no row can be read of.

    A file with a plain footer can have encrypted columns, and only reading tells: asking pyarrow
    for the metadata of such a column ends the process. A damaged page is no reason to refuse a
    file: its rows become error rows.
    """
    try:
        batch = next(parquet.iter_batches(batch_size=1, columns=columns), None)
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"uses what is not supported here: {error}") from None
    except (OSError, pa.ArrowException) as error:
        if "decrypt" in str(error).lower():
            raise ValueError("has encrypted columns") from None
        return
    if rows == 0 and batch is not None and batch.num_rows:
        raise ValueError("contradicts itself: its footer counts no rows, but it holds some")
