"""Good Parquet files, damaged in one place, and what becomes of their rows.

    python -m tests.pipelines.mutants FOLDER SEED FIRST LAST

prints a JSON line for each damaged file: its number, how it was damaged, and how reading it ended.
A process of its own, since it may crash, and may take too long.
"""

import io
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import InputError
from pipelines.columns import without_invalid_text
from pipelines.inputs import read_footers
from pipelines.locations import parse_location
from pipelines.plan import Unit
from pipelines.prompts import PromptSource
from pipelines.reader import UnitRows, read_units
from pipelines.schema import check_columns

from .data import spec

ROWS, GROUP_ROWS, UNIT_ROWS = 300, 100, 64
# More than the header of any page of these files.
HEADER = 250
WRITTEN: list[dict[str, Any]] = [
    {"compression": "none", "use_dictionary": False},
    {"compression": "zstd", "use_dictionary": False},
    {"compression": "snappy", "use_dictionary": True},
    {"compression": "gzip", "use_dictionary": False, "data_page_version": "2.0"},
    {"compression": "lz4", "use_dictionary": True, "write_statistics": True},
    {"compression": "snappy", "use_dictionary": False, "store_schema": False},
]


@dataclass(frozen=True)
class Base:
    """A good file, and the bytes in it that a checksum covers."""

    data: bytes
    bodies: tuple[range, ...]

    @property
    def footer(self) -> int:
        return len(self.data) - 8 - int.from_bytes(self.data[-8:-4], "little")


@dataclass(frozen=True)
class Ending:
    """How reading a damaged file ended."""

    number: int
    change: str
    ended: str
    faults: int = 0
    wrong: int = 0


@cache
def expected() -> pa.Table:
    """The rows of every good file."""
    source = random.Random(0)
    texts = [f"{i} {source.randbytes(20).hex()}" for i in range(ROWS)]
    messages = [[{"role": "user", "content": text}] for text in texts]
    when = pa.array(range(ROWS), pa.timestamp("us"))
    return pa.table(
        {
            "text": texts,
            "id": range(ROWS),
            "m": messages,
            "when": when,
            "half": [i / 2 for i in range(ROWS)],
        }
    )


@cache
def base(number: int) -> Base:
    """Write one of the good files."""
    sink = io.BytesIO()
    options = {"write_statistics": False, **WRITTEN[number]}
    pq.write_table(expected(), sink, row_group_size=GROUP_ROWS, write_page_checksum=True, **options)
    return Base(sink.getvalue(), tuple(_bodies(pq.read_metadata(sink))))


def _bodies(metadata: pq.FileMetaData) -> list[range]:
    found = []
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            first = column.dictionary_page_offset or column.data_page_offset
            end = first + column.total_compressed_size
            starts = sorted({first, column.data_page_offset})
            pairs = zip(starts, [*starts[1:], end], strict=True)
            found += [range(begin + HEADER, stop) for begin, stop in pairs if begin + HEADER < stop]
    return found


def _flip(data: bytearray, at: int, source: random.Random) -> None:
    data[at] ^= 1 << source.randrange(8)


def _overwrite(data: bytearray, at: int, source: random.Random) -> None:
    size = source.choice((1, 4, 30, 200))
    filling = source.choice((b"\0", b"\xff", source.randbytes(1)))
    data[at : at + size] = (filling * size)[: len(data) - at]


def _scramble(data: bytearray, at: int, source: random.Random) -> None:
    size = min(source.choice((2, 8, 64)), len(data) - at)
    data[at : at + size] = source.randbytes(size)


def _cut(data: bytearray, at: int, source: random.Random) -> None:
    del data[at:]


def _remove(data: bytearray, at: int, source: random.Random) -> None:
    del data[at : at + source.choice((1, 7, 100))]


def _insert(data: bytearray, at: int, source: random.Random) -> None:
    data[at:at] = source.randbytes(source.choice((1, 7, 100)))


def _repeat(data: bytearray, at: int, source: random.Random) -> None:
    data[at:at] = data[at : at + source.choice((1, 50, 1000))]


CHANGES: list[Callable[[bytearray, int, random.Random], None]] = [
    *(_flip, _flip, _flip, _overwrite, _overwrite, _scramble),
    *(_cut, _remove, _insert, _repeat),
]


def damaged(seed: int, number: int) -> tuple[bytes, str, bool]:
    """Damage a good file in one place.

    Returns:
        Its bytes, what was done, and whether only bytes under a checksum were changed.
    """
    source = random.Random(f"{seed}/{number}")
    which = source.randrange(len(WRITTEN))
    good = base(which)
    data = bytearray(good.data)
    # Footers are small, and most of what can go wrong is in them.
    first = good.footer if source.random() < 0.5 else 0
    at = source.randrange(first, len(data))
    change = source.choice(CHANGES)
    change(data, at, source)
    pairs = enumerate(zip(good.data, data, strict=False))
    same_size = len(data) == len(good.data)
    places = [place for place, (old, new) in pairs if old != new] if same_size else []
    covered = bool(places) and any(places[0] in body and places[-1] in body for body in good.bodies)
    return bytes(data), f"{change.__name__[1:]} at {at} of file {which}", covered


def read(path: Path) -> tuple[pa.Table, list[bool]]:
    """Read a file as a job does, as far as its tokens, and say which rows have a fault.

    Raises:
        InputError: it is refused.
    """
    job = spec(prompt=None, prompt_column="text")
    source = PromptSource.of(job)
    footers = read_footers([parse_location(str(path))], None)
    kept = check_columns(footers, source, job.keep)
    file = footers[0].file
    last = min(file.rows, 5 * ROWS)
    units = [Unit(0, at, min(at + UNIT_ROWS, last)) for at in range(0, last, UNIT_ROWS)]
    found = [_checked(rows, kept) for rows in read_units(file, units, None)] if units else []
    if not found:
        return kept.empty_table(), []
    table = pa.concat_tables([rows.table for rows in found])
    assert table.num_rows == last
    faulty = [row in rows.faults for rows in found for row in range(rows.unit.rows)]
    return table, faulty


def _checked(rows: UnitRows, kept: pa.Schema) -> UnitRows:
    """Do with rows what a job does before and after they are computed."""
    assert rows.table.num_rows == rows.unit.rows
    prompts = list(PromptSource(text_column="text").prompts(rows.table))
    assert len(prompts) == rows.unit.rows
    columns, faults = [], dict(rows.faults)
    for field in kept:
        column, bad = without_invalid_text(rows.table[field.name])
        faults |= dict.fromkeys(bad, "invalid text")
        columns.append(column.cast(field.type))
    table = pa.table(columns, schema=kept)
    pq.write_table(table, io.BytesIO(), compression="zstd")
    table.to_pylist()
    return UnitRows(rows.unit, table, faults)


def ending(folder: Path, seed: int, number: int) -> Ending:
    """Damage a file and read it."""
    data, change, covered = damaged(seed, number)
    path = folder / f"{number}.parquet"
    path.write_bytes(data)
    try:
        table, faulty = read(path)
    except InputError:
        return Ending(number, change, "refused")
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        return Ending(number, change, f"raised {type(error).__name__}: {error}")
    finally:
        path.unlink()
    wrong = 0
    if covered:
        pairs = zip(table.to_pylist(), expected().to_pylist(), faulty, strict=True)
        wrong = sum(row != right for row, right, fault in pairs if not fault)
    return Ending(number, change, "rows", sum(faulty), wrong)


def main() -> None:
    """Read the damaged files of these numbers."""
    folder, seed, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
    for number in range(first, last):
        print(json.dumps(asdict(ending(folder, seed, number))), flush=True)


if __name__ == "__main__":
    main()
