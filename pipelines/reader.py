"""The rows of units, read from their file. What can't be read becomes rows that say why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from .batch_lines import job_settings
from .cells import without_large_cells
from .errors import InputError
from .inputs import InputFile
from .job import JobSpec
from .json_columns import schema_from
from .lines_file import line_rows
from .parquet import footer_digest, parquet_rows
from .partitions import with_partitions
from .plan import Unit
from .s3 import ENVIRONMENT, S3Settings
from .source_file import Rows, open_input, state_of


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
class ReadOptions:
    """How a job's files are read, beside what each of them says of itself.

    Attributes:
        settings: what input lines of OpenAI's Batch API may ask for; None is whatever they do.
        s3: how S3 is reached.
    """

    settings: Mapping[str, Any] | None = None
    s3: S3Settings = ENVIRONMENT

    @classmethod
    def of(cls, spec: JobSpec) -> Self:
        """Take from a job what is needed."""
        return cls(job_settings(spec), spec.s3)


PLAIN = ReadOptions()


def read_units(
    file: InputFile,
    units: Sequence[Unit],
    columns: Sequence[str] | None,
    options: ReadOptions = PLAIN,
) -> Iterator[UnitRows]:
    """Read units of one file that follow each other without a gap, one after the other.

    Args:
        file: the file.
        units: of this file.
        columns: those to read; None is all of them.
        options: the job's.

    Raises:
        InputError: the file changed since the plan was made.
    """

    def finished(rows: Rows) -> Rows:
        table, large = without_large_cells(rows.table)
        table = with_partitions(table, file.partitions, columns)
        wanted = [n for n in table.column_names if columns is None or n in columns]
        table = table.select(wanted) if wanted else table
        return Rows(table, {**large, **rows.faults})

    first, last = units[0].first, units[-1].last
    rows = _parquet if file.format == "parquet" else _lines
    yield from _cut(map(finished, rows(file, columns, first, last, options)), units, file)


def _parquet(
    file: InputFile, columns: Sequence[str] | None, first: int, last: int, options: ReadOptions
) -> Iterator[Rows]:
    with open_input(file.path, options.s3) as source:
        try:
            digest = footer_digest(source)
        except ValueError:
            digest = ""
        if digest != file.footer:
            raise _changed(file)
        yield from parquet_rows(source, file.groups, columns, first, last)


def _lines(
    file: InputFile, columns: Sequence[str] | None, first: int, last: int, options: ReadOptions
) -> Iterator[Rows]:
    with open_input(file.path, options.s3) as source:
        if state_of(file.path, source) != (file.size, file.version):
            raise _changed(file)
    kinds = [kind for kind in file.columns if columns is None or kind[0] in columns]
    schema = schema_from(kinds or file.columns[:1])
    yield from line_rows(
        file.path,
        file.index,
        (first, last),
        schema,
        batch=file.format == "batch",
        settings=options.settings,
        s3=options.s3,
    )


def _cut(pieces: Iterator[Rows], units: Sequence[Unit], file: InputFile) -> Iterator[UnitRows]:
    rest = next(pieces)
    for unit in units:
        taken: list[Rows] = []
        have = 0
        while True:
            piece, rest = rest.split(unit.rows - have)
            taken.append(piece)
            have += piece.table.num_rows
            if have == unit.rows:
                break
            following = next(pieces, None)
            if following is None:
                raise _changed(file)
            rest = following
        yield _joined(unit, taken)


def _joined(unit: Unit, pieces: Sequence[Rows]) -> UnitRows:
    faults: dict[int, str] = {}
    at = 0
    for piece in pieces:
        faults |= {at + row: reason for row, reason in piece.faults.items()}
        at += piece.table.num_rows
    return UnitRows(unit, pa.concat_tables([piece.table for piece in pieces]), faults)


def _changed(file: InputFile) -> InputError:
    return InputError(f"{file.path} changed since the job was planned")
