"""The input files of a job: which they are, and what their footers say."""

import hashlib
import posixpath
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

from .errors import InputError, listed
from .storage import Location, filesystem, parse_location

FOOTER_THREADS = 16
# Enough for the first page of a column; without it, whole column chunks would be read.
PROBE_BUFFER = 1 << 16
MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One Parquet file as it was when the job was planned.

    Attributes:
        name: its path below the common folder of all inputs; with a row's number it is that row's
            identity.
        path: where it is read from.
        size: in bytes.
        version: the S3 ETag, or the time of its last change.
        footer: SHA-256 of its footer.
        groups: rows of each row group.
    """

    name: str
    path: str
    size: int
    version: str
    footer: str
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)


@dataclass(frozen=True, slots=True)
class Footer:
    """An input file and its Arrow schema."""

    file: InputFile
    schema: pa.Schema


def find_files(patterns: Sequence[str]) -> list[Location]:
    """List the files that paths, folders and globs stand for, each once, sorted by path.

    A folder gives the *.parquet files at any depth in it, but for names that start with `_` or
    `.`, as every Parquet reader has it.

    Raises:
        InputError: one of them matches nothing or can't be listed.
        StorageError: one of them is no path that is read.
    """
    found: set[Location] = set()
    for pattern in patterns:
        location = parse_location(pattern)
        try:
            paths = list(_expanded(location))
        except (OSError, BotoCoreError) as error:
            raise InputError(f"{pattern} can't be listed: {error}") from error
        if not paths:
            raise InputError(f"{pattern} matches no Parquet file")
        found |= {Location(location.scheme, path) for path in paths}
    return sorted(found, key=str)


def refuse_output_among_inputs(
    patterns: Sequence[str], files: Sequence[Location], output: str
) -> None:
    """Make sure that no part of the output would be taken for input by the next run.

    Raises:
        InputError: the output lies where input is looked for.
    """
    folder = str(parse_location(output))
    shallow = {posixpath.dirname(str(file)) for file in files}
    deep = [str(parse_location(pattern)).split("/**")[0] for pattern in patterns]
    if folder in shallow or any(f"{folder}/".startswith(f"{path}/") for path in deep):
        raise InputError(f"the output {output} lies among the input files: choose another folder")


def read_footers(files: Sequence[Location], columns: Sequence[str] | None) -> list[Footer]:
    """Read what is needed to plan the job.

    Args:
        files: what find_files gave.
        columns: those that will be read; None is all of them.

    Raises:
        InputError: naming every file that can't be used.
    """
    read = partial(_footer_or_fault, columns=columns)
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        results = list(pool.map(read, files, _names(files)))
    faults = [result for result in results if isinstance(result, str)]
    if faults:
        head = f"{len(faults)} of {len(files)} input files can't be used:"
        raise InputError(listed(head, faults))
    return [result for result in results if isinstance(result, Footer)]


def open_parquet(path: str, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file, local or on S3."""
    location = parse_location(path)
    source = filesystem(location.scheme).open(location.path, "rb")
    return pq.ParquetFile(source, **options)


def footer_digest(path: str) -> str:
    """Digest a Parquet file's footer, which holds the place of every page.

    Raises:
        ValueError: it is no Parquet file, or an encrypted one.
    """
    return hashlib.sha256(_footer_bytes(path)).hexdigest()


def _footer_bytes(path: str) -> bytes:
    location = parse_location(path)
    with filesystem(location.scheme).open(location.path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read(8)
        if size == 0:
            raise ValueError("is empty (0 bytes)")
        if tail[4:] == ENCRYPTED_MAGIC:
            raise ValueError("is encrypted")
        if size < 12 or tail[4:] != MAGIC:
            raise ValueError("is no Parquet file, or cut off")
        length = int.from_bytes(tail[:4], "little")
        if length > size - 12:
            raise ValueError("is cut off or damaged: its footer is longer than the file")
        file.seek(size - 8 - length)
        return bytes(file.read(length))


def _in_base64(word: bytes) -> list[bytes]:
    """Spell a word as it occurs within base64, depending on where in it it starts."""
    starts = ((b"", 0), (b".", 2), (b"..", 3))
    whole = [(b64encode(pad + word), skip, len(pad + word)) for pad, skip in starts]
    return [text[skip : size * 4 // 3] for text, skip, size in whole]


def _expanded(location: Location) -> Iterator[str]:
    fs, path = filesystem(location.scheme), location.path
    if fs.isfile(path):
        yield path
    elif fs.isdir(path):
        for found in fs.find(path):
            below = posixpath.relpath(found, path).split("/")
            if found.endswith(".parquet") and not any(part[0] in "._" for part in below):
                yield found
    elif set(path) & set("*?["):
        yield from (found for found in fs.glob(path) if fs.isfile(found))
    else:
        raise FileNotFoundError("there is no such file or folder")


def _names(files: Sequence[Location]) -> list[str]:
    """Give each file's path below the common folder of all."""
    paths = [str(file) for file in files]
    root = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if files else ""
    if len({file.scheme for file in files}) > 1:
        return paths
    return [posixpath.relpath(path, root) for path in paths]


def _footer_or_fault(location: Location, name: str, columns: Sequence[str] | None) -> Footer | str:
    try:
        return _footer(location, name, columns)
    except (pa.ArrowException, OSError, ValueError, BotoCoreError) as error:
        return f"{location} {_worded(error)}"


def _footer(location: Location, name: str, columns: Sequence[str] | None) -> Footer:
    path = str(location)
    size, version = _version(location)
    footer = _footer_bytes(path)
    # Ray Data unpickles what such columns carry in their metadata, and opening the file is enough
    # for that (CVE-2026-41486). The Arrow schema stands in the footer as base64.
    if any(spelling in footer for spelling in _in_base64(b"ray.data.")):
        raise ValueError("has columns of a ray.data extension type, which are not read")
    with open_parquet(path, buffer_size=PROBE_BUFFER) as parquet:
        metadata = parquet.metadata
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        if sum(groups) != metadata.num_rows or min(groups, default=0) < 0:
            raise ValueError("contradicts itself: its footer counts rows in two ways")
        schema = parquet.schema_arrow
        wanted = [n for n in schema.names if columns is None or n in columns]
        _try_first_row(parquet, wanted, metadata.num_rows)
    digest = hashlib.sha256(footer).hexdigest()
    return Footer(InputFile(name, path, size, version, digest, groups), schema)


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
    except OSError as error:
        if "decrypt" in str(error).lower():
            raise ValueError("has encrypted columns") from None
        return
    if rows == 0 and batch is not None and batch.num_rows:
        raise ValueError("contradicts itself: its footer counts no rows, but it holds some")


def _version(location: Location) -> tuple[int, str]:
    """Give the size of a file and what changes when its contents do."""
    if location.scheme == "file":
        stat = Path(location.path).stat()
        return stat.st_size, f"mtime {stat.st_mtime_ns}"
    info = filesystem(location.scheme).info(location.path)
    return int(info["size"]), f"ETag {info.get('ETag', '')}"


def _worded(error: Exception) -> str:
    if isinstance(error, ValueError) and not isinstance(error, pa.ArrowException):
        return str(error)
    return f"can't be read: {' '.join(str(error).split()) or type(error).__name__}"
