"""Counts what an output holds, by nothing but Parquet: it knows no plan, no receipt, no marker."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class Tally(NamedTuple):
    """Rows of an output against those of its input.

    Attributes:
        rows: that are there.
        lost: rows of the input that are not there.
        doubled: rows beyond the first of their kind.
        foreign: rows that the input does not have.
        unreadable: files that are no Parquet; a reader of the folder stumbles over them.
    """

    rows: int = 0
    lost: int = 0
    doubled: int = 0
    foreign: int = 0
    unreadable: int = 0

    @property
    def good(self) -> bool:
        """Whether each row is there once, and nothing else."""
        return not any(self[1:])


def parts(folder: Path) -> list[Path]:
    """What any reader of Parquet takes for the folder's contents."""
    return sorted(path for path in folder.glob("*.parquet") if path.name[0] not in "._")


def tally(folder: Path, expected: Mapping[str, int]) -> Tally:
    """Count the rows of a folder.

    Args:
        folder: of Parquet files with the columns source_file and source_row.
        expected: input file to its rows.
    """
    found: Counter[tuple[str, int]] = Counter()
    unreadable = 0
    for path in parts(folder):
        try:
            # In one thread: this process forks.
            table = pq.ParquetFile(path).read(["source_file", "source_row"], use_threads=False)
        except (pa.ArrowException, OSError):
            unreadable += 1
            continue
        found.update(
            zip(table["source_file"].to_pylist(), table["source_row"].to_pylist(), strict=True)
        )
    wanted = {(name, row) for name, rows in expected.items() for row in range(rows)}
    return Tally(
        rows=found.total(),
        lost=len(wanted - found.keys()),
        doubled=sum(count - 1 for identity, count in found.items() if identity in wanted),
        foreign=sum(count for identity, count in found.items() if identity not in wanted),
        unreadable=unreadable,
    )


def contents(folder: Path) -> pa.Table:
    """Give all rows of a folder, its files one after another by name."""
    return pa.concat_tables(
        [pq.ParquetFile(path).read(use_threads=False) for path in parts(folder)]
    )
