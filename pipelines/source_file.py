"""Input files of every format: opened, told apart from a changed one, and what is read of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa

from .locations import filesystem, parse_location
from .s3 import ENVIRONMENT, S3Settings

Format = Literal["parquet", "jsonl", "batch"]
# What is read ahead of a stream from S3.
STREAM_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds.

    Attributes:
        digest: SHA-256 of a Parquet footer, or of all bytes of JSON lines (decompressed).
        groups: rows of each row group; JSON lines are one group.
        schema: its columns.
        format: how it is read; "batch" are input lines of OpenAI's Batch API.
        stride: lines from one offset to the next; 0 where there are no offsets.
        offsets: the bytes where lines 0, stride, 2 stride, ... begin.
    """

    digest: str
    groups: tuple[int, ...]
    schema: pa.Schema
    format: Format = "parquet"
    stride: int = 0
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that follow each other in a file.

    Attributes:
        table: their columns; null in rows that could not be read.
        faults: row in the table to the reason, for rows that could not be read.
    """

    table: pa.Table
    faults: dict[int, str]

    def split(self, count: int) -> tuple["Rows", "Rows"]:
        """Cut behind so many rows, or at the end if there are fewer."""
        head = {row: reason for row, reason in self.faults.items() if row < count}
        tail = {row - count: reason for row, reason in self.faults.items() if row >= count}
        return Rows(self.table.slice(0, count), head), Rows(self.table.slice(count), tail)


def open_input(path: str, s3: S3Settings = ENVIRONMENT, *, streamed: bool = False) -> BinaryIO:
    """Open a file, local or on S3.

    On S3 each read is a request for just these bytes, unless the file is streamed: then it is read
    ahead.
    """
    location = parse_location(path)
    options: dict[str, Any] = {"block_size": STREAM_BLOCK} if streamed else {"cache_type": "none"}
    fs = filesystem(location.scheme, s3)
    return cast("BinaryIO", fs.open(location.path, "rb", **options))


def state_of(path: str, file: Any) -> tuple[int, str]:
    """Give the size of an open file, and what changes when its contents do."""
    location = parse_location(path)
    if location.scheme == "file":
        stat = Path(location.path).stat()
        return stat.st_size, f"mtime {stat.st_mtime_ns}"
    return int(file.details["size"]), f"ETag {file.details.get('ETag', '')}"


def is_damage(error: Exception) -> bool:
    """Tell damage, which stays, from a file that can't be reached just now.

    Arrow's own findings carry no errno; those of the system, and of s3fs, do.
    """
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
