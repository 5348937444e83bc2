"""A small job for the faults to strike: its plan, its rows, and three ways to commit them."""

import hashlib
import time
import uuid
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import commit, committed, finish
from pipelines.plan import Unit, join_or_start
from pipelines.storage import open_store, probe
from tests.pipelines.test_plan import plan

PLAN = plan(90, 60, unit_rows=30)
UNITS = tuple(PLAN.units())
EXPECTED = {"f0.parquet": 90, "f1.parquet": 60}
SUCCESS = "_SUCCESS"
# Between rows that are written in place: a part of a usual size takes its time, too.
ROW_S = 0.0005


class Way(Protocol):
    """A way to write a job's output, step by step; each step may be tried any number of times."""

    def begin(self, output: str) -> None:
        """Do what comes before the first unit."""
        ...

    def commit(self, output: str, unit: Unit, attempt: str) -> None:
        """Write a unit's rows."""
        ...

    def end(self, output: str) -> None:
        """Do what comes after the last unit."""
        ...


class Ours:
    """What `gemmaray run` does, by its own functions, on a folder or on S3."""

    def begin(self, output: str) -> None:
        store = open_store(output)
        probe(store)
        join_or_start(store, PLAN, unit_rows_given=False)
        committed(store, PLAN)

    def commit(self, output: str, unit: Unit, attempt: str) -> None:
        commit(open_store(output), PLAN, unit, rows(unit, attempt))

    def end(self, output: str) -> None:
        store = open_store(output)
        finish(store, PLAN, committed(store, PLAN))


class UniqueFileAndMarker:
    """A control: files of unique names, and a marker for each unit that is done."""

    def begin(self, output: str) -> None:
        Path(output, "_done").mkdir(parents=True, exist_ok=True)

    def commit(self, output: str, unit: Unit, attempt: str) -> None:
        marker = Path(output, "_done", f"{unit.file}-{unit.first}")
        if not marker.exists():
            pq.write_table(rows(unit, attempt), Path(output, f"part-{uuid.uuid4().hex}.parquet"))
            marker.touch()

    def end(self, output: str) -> None:
        pass


class InPlace:
    """A control: a file for each unit, written where it belongs."""

    def begin(self, output: str) -> None:
        Path(output).mkdir(parents=True, exist_ok=True)

    def commit(self, output: str, unit: Unit, attempt: str) -> None:
        path = Path(output, f"part-{unit.file}-{unit.first}.parquet")
        if not path.exists():
            table = rows(unit, attempt)
            with pq.ParquetWriter(path, table.schema) as file:
                for row in range(table.num_rows):
                    file.write_table(table.slice(row, 1))
                    time.sleep(ROW_S)

    def end(self, output: str) -> None:
        pass


WAYS: dict[str, Way] = {
    "link": Ours(),
    "marker": UniqueFileAndMarker(),
    "in place": InPlace(),
}


def rows(unit: Unit, attempt: str) -> pa.Table:
    """A unit's rows as one attempt computed them: no two attempts write the same bytes."""
    count = unit.rows
    text = [_text(f"{attempt}/{row}") for row in range(unit.first, unit.last)]
    return pa.table(
        {
            "source_file": pa.array([f"f{unit.file}.parquet"] * count, pa.string()),
            "source_row": pa.array(range(unit.first, unit.last), pa.int64()),
            "prompt_tokens": pa.array([3] * count, pa.int32()),
            "completion_tokens": pa.array([2] * count, pa.int32()),
            "generated_text": pa.array(text, pa.string()),
            "error_class": pa.nulls(count, pa.string()),
            "error": pa.nulls(count, pa.string()),
        }
    )


def _text(name: str) -> str:
    return "".join(hashlib.sha512(f"{name}/{i}".encode()).hexdigest() for i in range(3))
