"""The input files of a job: what they say of themselves, and which of them are bad."""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import pyarrow as pa

from .errors import InputError, listed
from .json_columns import common_schema, kinds_of
from .jsonl import LineIndex, is_jsonl
from .lines_file import inspect_lines
from .locations import STORE_ERRORS, Location
from .parquet import inspect_parquet
from .partitions import Partition, partition_types, partitions_of
from .quarantine import BadFile
from .s3 import ENVIRONMENT, S3Settings
from .source_file import Contents, Format, is_damage, open_input, state_of

FOOTER_THREADS = 16


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file as it was when the job was planned, with all that it takes to read its rows.

    Attributes:
        name: its path below the common folder of all inputs; with a row's number it is that row's
            identity.
        path: where it is read from.
        size: in bytes.
        version: the S3 ETag, or the time of its last change.
        footer: SHA-256 of a Parquet footer, or of all bytes of JSON lines (decompressed).
        groups: rows of each row group; JSON lines are one group.
        format: how it is read; "batch" are input lines of OpenAI's Batch API.
        stride: lines from one offset to the next; 0 where there are no offsets.
        offsets: the bytes where lines 0, stride, 2 stride, ... begin.
        columns: names and kinds of the columns of JSON lines.
        partitions: names, types and values of the columns that stand in its path.
    """

    name: str
    path: str
    size: int
    version: str
    footer: str
    groups: tuple[int, ...]
    format: Format = "parquet"
    stride: int = 0
    offsets: tuple[int, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    partitions: tuple[Partition, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)

    @property
    def spans(self) -> tuple[int, ...]:
        """Rows of each stretch that can be read without those before it."""
        if not self.stride:
            return self.groups
        whole, rest = divmod(self.rows, self.stride)
        return (*[self.stride] * whole, *([rest] if rest else []))

    @property
    def span(self) -> int:
        """Rows that can be reached only by decoding all that come before them in a span."""
        return self.stride or max(self.groups, default=0)

    @property
    def index(self) -> LineIndex:
        """Where its lines are, if it is a file of lines."""
        return LineIndex(self.footer, self.rows, self.stride, self.offsets)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what dataclasses.asdict and JSON made of one. Raises TypeError."""
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        pairs = {name: tuple(map(tuple, lists.get(name, ()))) for name in ("columns", "partitions")}
        return cls(**{**values, **lists, **pairs})


@dataclass(frozen=True, slots=True)
class Footer:
    """An input file and its Arrow schema, partitions included."""

    file: InputFile
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found out about all files: those that take part, and those that do not."""

    footers: list[Footer]
    quarantined: list[BadFile]


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a file can't be used; an outage does not last."""

    file: BadFile
    lasting: bool


def survey(
    files: Sequence[Location],
    columns: Sequence[str] | None,
    *,
    quarantine: bool = False,
    known: Iterable[InputFile] = (),
    s3: S3Settings = ENVIRONMENT,
) -> Survey:
    """Read what is needed to plan the job, of many files at a time.

    Args:
        files: what find_files gave.
        columns: those that will be read; None is all of them.
        quarantine: leave out files that are damaged, instead of refusing the job.
        known: files of an earlier plan. JSON lines that have not changed since are not read again.
        s3: how S3 is reached.

    Raises:
        InputError: naming every file that can't be used.
    """
    planned = {file.name: file for file in known if file.format != "parquet"}
    look = partial(_look, columns=columns, planned=planned, s3=s3)
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        results = list(pool.map(look, files, _names(files)))
    faults = [result for result in results if isinstance(result, _Fault)]
    footers = [result for result in results if isinstance(result, Footer)]
    _refuse(faults, len(files), quarantine=quarantine and bool(footers))
    return Survey(_completed(footers), [fault.file for fault in faults])


def read_footers(
    files: Sequence[Location], columns: Sequence[str] | None, s3: S3Settings = ENVIRONMENT
) -> list[Footer]:
    """Read what is needed to plan a job in which no file may be bad; see survey."""
    return survey(files, columns, s3=s3).footers


def _refuse(faults: Sequence[_Fault], files: int, *, quarantine: bool) -> None:
    """Raise an error for the files that must not be bad."""
    fatal = [fault for fault in faults if not (quarantine and fault.lasting)]
    if fatal:
        lines = [f"{fault.file.path} {fault.file.reason}" for fault in fatal]
        some_left = all(fault.lasting for fault in fatal) and len(fatal) < files
        hint = " (on_bad_file: quarantine goes on without them)" if some_left else ""
        raise InputError(listed(f"{len(fatal)} of {files} input files can't be used{hint}:", lines))


def _names(files: Sequence[Location]) -> list[str]:
    """Give each file's path below the common folder of all."""
    paths = [str(file) for file in files]
    root = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if files else ""
    if len({file.scheme for file in files}) > 1:
        return paths
    return [posixpath.relpath(path, root) for path in paths]


def _look(
    location: Location,
    name: str,
    columns: Sequence[str] | None,
    planned: Mapping[str, InputFile],
    s3: S3Settings,
) -> Footer | _Fault:
    path, size, version = str(location), 0, ""
    try:
        with open_input(path, s3) as file:
            size, version = state_of(path, file)
            partitions = partitions_of(location.path)
            if is_jsonl(path):
                old = planned.get(name)
                same = old is not None and (old.size, old.version) == (size, version)
                contents = inspect_lines(path, size, old.index if old and same else None, s3)
            else:
                contents = inspect_parquet(file, columns)
    except (*STORE_ERRORS, ValueError, pa.ArrowException) as error:
        lasting = isinstance(error, ValueError) or is_damage(error)
        return _Fault(BadFile(name, path, size, version, _worded(error)), lasting)
    return Footer(_input_file(name, path, size, version, contents, partitions), contents.schema)


def _input_file(
    name: str,
    path: str,
    size: int,
    version: str,
    contents: Contents,
    partitions: Sequence[tuple[str, str | None]],
) -> InputFile:
    return InputFile(
        name=name,
        path=path,
        size=size,
        version=version,
        footer=contents.digest,
        groups=contents.groups,
        format=contents.format,
        stride=contents.stride,
        offsets=contents.offsets,
        columns=() if contents.format == "parquet" else kinds_of(contents.schema),
        partitions=tuple((key, "string", value) for key, value in partitions),
    )


def _completed(footers: Sequence[Footer]) -> list[Footer]:
    """Give columns the types that they have in all files together.

    Raises:
        InputError: a file has a column that stands in its path as well.
    """
    lines = common_schema(f.schema for f in footers if f.file.format == "jsonl")
    types = partition_types(footer.file.partitions for footer in footers)
    completed, clashes = [], []
    for footer in footers:
        file, schema = footer.file, footer.schema
        if file.format == "jsonl":
            schema = lines
            file = replace(file, columns=kinds_of(lines))
        for key, _, _ in file.partitions:
            if key in schema.names:
                clashes.append(f"{file.path} has a column {key!r} and lies in a folder {key}=...")
            schema = schema.append(pa.field(key, pa.type_for_alias(types[key])))
        typed = tuple((key, types[key], value) for key, _, value in file.partitions)
        completed.append(Footer(replace(file, partitions=typed), schema))
    if clashes:
        more = f" (and {len(clashes) - 1} more files)" if clashes[1:] else ""
        raise InputError(f"{clashes[0]}: rename one of them{more}")
    return completed


def _worded(error: Exception) -> str:
    if isinstance(error, ValueError) and not isinstance(error, pa.ArrowException):
        return str(error)
    return f"can't be read: {' '.join(str(error).split()) or type(error).__name__}"
