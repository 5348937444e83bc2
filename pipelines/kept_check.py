"""The kept columns of parts, cell by cell beside the rows of the input that they came from."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import without_invalid_text
from .equality import differing_rows, plain
from .errors import StorageError
from .inputs import InputFile
from .locations import STORE_ERRORS
from .output import DamagedPartError, Output
from .part_check import counted
from .plan import Unit
from .reader import UnitRows

# How rows of one file are read: as pipelines.reader.read_units does it.
Read = Callable[[InputFile, Sequence[Unit], Sequence[str]], Iterator[UnitRows]]

# What is held of a part and of its input at a time.
SLICE_ROWS = 4096


def kept_faults(
    output: Output,
    run: Sequence[Unit],
    parts: Collection[Unit],
    kept: Sequence[str],
    read: Read,
) -> Iterator[tuple[Unit, list[str]]]:
    """Compare some parts with the input.

    Args:
        output: where the parts are.
        run: units of one file that follow each other without a gap.
        parts: those of them to compare; each part holds its unit's rows in their order.
        kept: the columns to compare.
        read: reads the input.

    Yields:
        Each of `parts`, and what is wrong with it.

    Raises:
        InputError: the input changes meanwhile.
        StorageError: something can't be reached.
    """
    slices = {unit: _slices(unit) for unit in run}
    file = output.plan.files[run[0].file]
    source = _source(file, [piece for unit in run for piece in slices[unit]], kept, read)
    for unit in run:
        rows = islice(source, len(slices[unit]))
        if unit in parts:
            yield unit, _part_faults(output, unit, kept, rows)
        deque(rows, maxlen=0)  # what was not compared


def _slices(unit: Unit) -> list[Unit]:
    starts = range(unit.first, unit.last, SLICE_ROWS)
    return [Unit(unit.file, start, min(start + SLICE_ROWS, unit.last)) for start in starts]


def _source(
    file: InputFile, slices: Sequence[Unit], kept: Sequence[str], read: Read
) -> Iterator[UnitRows]:
    if not slices:
        return
    try:
        yield from read(file, slices, kept)
    except (*STORE_ERRORS, pa.ArrowException) as error:
        raise StorageError(f"{file.path} can't be read: {error}") from error


def _part_faults(
    output: Output, unit: Unit, kept: Sequence[str], source: Iterator[UnitRows]
) -> list[str]:
    differing: dict[str, list[int]] = {name: [] for name in kept}
    try:
        with output.part(unit) as parquet:
            part = _Batches(parquet, kept)
            for rows in source:
                found = part.take(rows.unit.rows)
                for name in kept:
                    places = _differing(found[name], rows.table[name])
                    differing[name] += [rows.unit.first + place for place in places]
    except DamagedPartError as error:
        return [error.reason]
    return [
        f"column {name!r} differs from the input in {counted(len(places))}, the first of them row "
        f"{places[0]}"
        for name, places in differing.items()
        if places
    ]


def _differing(found: pa.ChunkedArray, source: pa.ChunkedArray) -> list[int]:
    """Compare a kept column with the input's, which loses invalid text on its way to the output."""
    found = plain(found)
    expected, _ = without_invalid_text(source)
    try:
        expected = plain(expected).cast(found.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return list(range(len(found)))
    return differing_rows(found, expected)


class _Batches:
    """Takes rows off a part, as many at a time as are wanted."""

    def __init__(self, parquet: pq.ParquetFile, columns: Sequence[str]) -> None:
        self._batches = parquet.iter_batches(SLICE_ROWS, columns=list(columns))
        self._rest: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        """Give the next rows.

        Raises:
            pa.ArrowInvalid: there are fewer.
        """
        tables: list[pa.Table] = []
        while count:
            if self._rest is None or self._rest.num_rows == 0:
                batch = next(self._batches, None)
                if batch is None:
                    raise pa.ArrowInvalid("its columns differ in length")
                self._rest = pa.Table.from_batches([batch])
            tables.append(self._rest.slice(0, count))
            self._rest = self._rest.slice(count)
            count -= tables[-1].num_rows
        return pa.concat_tables(tables)
