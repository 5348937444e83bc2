"""Files of JSON lines: looked at before a job reads them, and their rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from model.errors import PromptError

from .batch_lines import BATCH_SCHEMA, batch_columns, batch_fault, is_batch_line
from .json_columns import FIRST_LINES, Object, first_objects, parsed, schema_of, table_of
from .jsonl import Line, LineIndex, chunks, codec_of, index_lines, open_lines, split_lines
from .s3 import ENVIRONMENT, S3Settings
from .source_file import Contents, Rows

# Lines are turned into rows in batches of so many, and fewer where they are long.
BATCH_LINES = 256
BATCH_BYTES = 16 << 20


def inspect_lines(
    path: str, size: int, index: LineIndex | None = None, s3: S3Settings = ENVIRONMENT
) -> Contents:
    """Look at what a job needs to know of a file of JSON lines.

    Args:
        path: of the file.
        size: in bytes.
        index: of its lines, if it is known; otherwise the whole file is read for it.
        s3: how S3 is reached.

    Raises:
        ValueError: it can't be used; the message goes on behind the file's name.
        OSError: it is damaged, or can't be reached.
    """
    if size == 0:
        raise ValueError("is empty (0 bytes)")
    with open_lines(path, s3=s3) as stream:
        objects = first_objects(split_lines(chunks(stream)))
    if not objects:
        raise ValueError(f"holds no JSON object in its first {FIRST_LINES} lines")
    if index is None:
        with open_lines(path, s3=s3) as stream:
            index = index_lines(stream)
    batch, compressed = is_batch_line(objects[0]), codec_of(path) is not None
    return Contents(
        digest=index.digest,
        groups=(index.lines,),
        schema=BATCH_SCHEMA if batch else schema_of(objects),
        format="batch" if batch else "jsonl",
        stride=0 if compressed else index.stride,
        offsets=() if compressed else index.offsets,
    )


def line_rows(
    path: str,
    index: LineIndex,
    rows: tuple[int, int],
    schema: pa.Schema,
    *,
    batch: bool = False,
    settings: Mapping[str, Any] | None = None,
    s3: S3Settings = ENVIRONMENT,
) -> Iterator[Rows]:
    """Read rows [first, last) of a file. A line that can't be used becomes a row that says why.

    Of a file with offsets only the lines around these rows are read, of a compressed one all that
    come before them, too.

    Args:
        path: of the file.
        index: of its lines.
        rows: first and last.
        schema: the columns to read.
        batch: whether they are input lines of OpenAI's Batch API.
        settings: what these may ask for; None is whatever they do.
        s3: how S3 is reached.

    Yields:
        First no rows, but the columns; then all rows in pieces, fewer if the file has become
        shorter.
    """
    yield Rows(schema.empty_table(), {})
    for some in _batches(lines_of(path, index, rows, s3)):
        objects = list(parsed(some))
        if batch:
            yield _requests(objects, schema, settings)
        else:
            yield Rows(*table_of(objects, schema))


def lines_of(
    path: str, index: LineIndex, rows: tuple[int, int], s3: S3Settings = ENVIRONMENT
) -> Iterator[Line]:
    """Read lines [first, last) of a file, as `line_rows` does, and give them as they are."""
    first, last = rows
    start, offset, size = index.around(first, last)
    with open_lines(path, offset, s3) as stream:
        yield from islice(split_lines(chunks(stream, size)), first - start, last - start)


def _requests(
    objects: Sequence[Object], schema: pa.Schema, settings: Mapping[str, Any] | None
) -> Rows:
    """Take the columns from requests; one that the job does not do as it is keeps them."""
    columns = [o if isinstance(o, PromptError) else batch_columns(o) for o in objects]
    table, faults = table_of(columns, schema)
    for row, request in enumerate(objects):
        if settings is not None and not isinstance(request, PromptError):
            fault = batch_fault(request, settings)
            faults |= {row: fault} if fault else {}
    return Rows(table, faults)


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += 0 if isinstance(line, int) else len(line)
        if len(batch) == BATCH_LINES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
