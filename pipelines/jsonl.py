"""JSON lines as bytes: where each line is, and what object stands in it.

A row is a line, whatever is in it: a line that holds no JSON object is a row with an error.
"""

import contextlib
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import pyarrow as pa

from model.errors import PromptError

from .s3 import ENVIRONMENT, S3Settings
from .source_file import open_input

SUFFIX = re.compile(r"\.jsonl?(\.gz|\.zst)?$")
CODECS = {".gz": "gzip", ".zst": "zstd"}
CHUNK_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 20
# Offsets are kept of so many lines, and fewer of longer files: a plan stays small.
FIRST_STRIDE = 128
MAX_OFFSETS = 4096
NEWLINE = 10

Line = bytes | int


class Readable(Protocol):
    """What lines are read from."""

    def read(self, size: int, /) -> bytes:
        """Give the next bytes, at most so many; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class LineIndex:
    """Where the lines of a file are.

    Attributes:
        digest: SHA-256 of its bytes.
        lines: how many there are.
        stride: lines from one offset to the next.
        offsets: the bytes where lines 0, stride, 2 stride, ... begin; none if a file can be read
            from its beginning only.
    """

    digest: str
    lines: int
    stride: int
    offsets: tuple[int, ...]

    def around(self, first: int, last: int) -> tuple[int, int, int | None]:
        """Say what to read for lines [first, last).

        Returns:
            The first line that is read, where it begins, and how many bytes to read; None is all.
        """
        if not self.offsets:
            return 0, 0, None
        begin, end = first // self.stride, -(-last // self.stride)
        offset = self.offsets[begin]
        size = self.offsets[end] - offset if end < len(self.offsets) else None
        return begin * self.stride, offset, size


def is_jsonl(path: str) -> bool:
    """Whether a file is read as JSON lines, by its name."""
    return SUFFIX.search(path) is not None


def codec_of(path: str) -> str | None:
    """Name what a file of JSON lines is compressed with."""
    match = SUFFIX.search(path)
    return CODECS.get(match[1] or "") if match else None


@contextlib.contextmanager
def open_lines(path: str, offset: int = 0, s3: S3Settings = ENVIRONMENT) -> Iterator[Readable]:
    """Open a file of JSON lines from a byte on; compressed files open at their beginning only."""
    codec = codec_of(path)
    assert not (codec and offset)
    with open_input(path, s3, streamed=codec is not None) as file:
        if codec is None:
            file.seek(offset)
            yield file
            return
        with pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) as stream:
            yield stream


def index_lines(stream: Readable) -> LineIndex:
    """Count the lines of a file and note where they begin, in one pass and bounded memory.

    Raises:
        OSError: it is cut off or damaged, as far as its compression tells.
    """
    digest = hashlib.sha256()
    lines, size, last = 0, 0, b"\n"
    offsets, stride = [0], FIRST_STRIDE
    for chunk in chunks(stream):
        digest.update(chunk)
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == NEWLINE)
        # Line `lines + 1 + i` begins behind ends[i].
        wanted = ends[-(lines + 1) % stride :: stride]
        offsets.extend((wanted + size + 1).tolist())
        while len(offsets) > MAX_OFFSETS:
            offsets, stride = offsets[::2], stride * 2
        lines, size, last = lines + len(ends), size + len(chunk), chunk[-1:]
    lines += last != b"\n"
    return LineIndex(digest.hexdigest(), lines, stride, tuple(offsets[: -(-lines // stride)]))


def chunks(stream: Readable, size: int | None = None) -> Iterator[bytes]:
    """Read a stream to its end, or so many bytes of it."""
    left = sys.maxsize if size is None else size
    while chunk := stream.read(min(CHUNK_BYTES, left)):
        yield chunk
        left -= len(chunk)


def split_lines(pieces: Iterable[bytes]) -> Iterator[Line]:
    """Cut bytes into lines without their ends; of a line of more than 64 MiB, give its length."""
    rest, dropped = b"", 0
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield _bounded(line, dropped)
            dropped = 0
        if dropped + len(rest) > MAX_LINE_BYTES:
            dropped, rest = dropped + len(rest), b""
    if rest or dropped:
        yield _bounded(rest, dropped)


def parse_line(line: Line) -> dict[str, Any]:
    """Give the object in a line.

    Raises:
        PromptError: there is none.
    """
    if isinstance(line, int):
        raise PromptError(f"the line has {line} bytes, and at most {MAX_LINE_BYTES} are read")
    try:
        text = line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise PromptError(f"the line is not valid UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise PromptError("the line is blank")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"the line is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise PromptError("the line holds no JSON object")
    return value


def _bounded(line: bytes, dropped: int) -> Line:
    size = dropped + len(line)
    return size if size > MAX_LINE_BYTES else line


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]} is too large for a number")
    return value
