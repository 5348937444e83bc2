"""Outputs of jobs that never ran, and ways to spoil them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit import PART_KEY, Receipt, finish
from pipelines.inputs import read_footers
from pipelines.job import Resources
from pipelines.listing import find_files
from pipelines.placement import place
from pipelines.plan import PLAN_NAME, Plan, Unit, make_plan
from pipelines.storage import Store, open_store

from .data import write

STARTED = 1_700_000_000.0
UNIT_S = 10.0
REPLICAS = ("a" * 32, "b" * 32)
FAILS = 13  # of so many rows one fails

RESULTS = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("prompt_tokens", pa.int32()),
        ("generated_text", pa.string()),
        ("finish_reason", pa.string()),
        ("completion_tokens", pa.int32()),
        ("label", pa.string()),
        ("label_score", pa.float64()),
        ("error_class", pa.string()),
        ("error", pa.string()),
    ]
)


def columns(rows: int) -> pa.Table:
    """Input columns of the kinds that are hard to compare."""
    nan = float("nan")
    texts = [f"text {row}" for row in range(rows)]
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int32()),
            "text": pa.array(texts, pa.string()),
            "kind": pa.array(
                [f"kind {row % 3}" for row in range(rows)], pa.string()
            ).dictionary_encode(),
            "price": pa.array(
                [nan if row % 5 == 0 else row / 8 for row in range(rows)], pa.float64()
            ),
            "vector": pa.array(
                [None if row % 7 == 0 else [float(row), nan] for row in range(rows)],
                pa.list_(pa.float32()),
            ),
            "who": pa.array(
                [{"name": f"n{row}", "age": row} for row in range(rows)],
                pa.struct([("name", pa.string()), ("age", pa.int64())]),
            ),
        }
    )


def failed(row: int) -> bool:
    """Whether a row fails."""
    return row % FAILS == 4


def results(file: str, unit: Unit) -> dict[str, Any]:
    """The columns that a job would have computed, different for each row."""
    rows = range(unit.first, unit.last)

    def column(value: Callable[[int], Any]) -> list[Any]:
        return [None if failed(row) else value(row) for row in rows]

    return {
        "source_file": [file] * unit.rows,
        "source_row": list(rows),
        "prompt_tokens": [5 + row % 7 for row in rows],
        "generated_text": column(lambda row: f"answer {row}"),
        "finish_reason": column(lambda row: "length" if row % 3 == 0 else "stop"),
        "completion_tokens": column(lambda row: 3 + row % 5),
        "label": column(lambda row: ("games", "web")[row % 2]),
        "label_score": column(lambda row: 0.5 + (row % 10) / 20),
        "error_class": ["PromptError" if failed(row) else None for row in rows],
        "error": [f"row {row} is bad" if failed(row) else None for row in rows],
    }


@dataclass(frozen=True)
class Made:
    """An output, and the inputs that it is made from."""

    url: str
    plan: Plan
    inputs: Path

    @property
    def store(self) -> Store:
        return open_store(self.url)

    @property
    def units(self) -> list[Unit]:
        return list(self.plan.units())

    def path(self, unit: Unit) -> Path:
        return Path(self.url, self.plan.part_name(unit))

    def table(self, unit: Unit) -> pa.Table:
        return pq.read_table(self.path(unit))

    def rewrite(self, unit: Unit, table: pa.Table, **changes: Any) -> None:
        """Put other rows into a part; its receipt is right unless `changes` say otherwise."""
        receipt = replace(receipt_of(self.plan, unit, table), **changes)
        pq.write_table(with_receipt(table, receipt), self.path(unit), compression="zstd")

    def set_cell(self, unit: Unit, column: str, row: int, value: Any) -> None:
        """Change one value of a part."""
        table = self.table(unit)
        values = table[column].to_pylist()
        values[row] = value
        index = table.schema.get_field_index(column)
        field = table.schema.field(index)
        self.rewrite(unit, table.set_column(index, field, pa.array(values, field.type)))


def receipt_of(plan: Plan, unit: Unit, table: pa.Table) -> Receipt:
    """The receipt that these rows should have."""
    file, number = plan.files[unit.file], list(plan.units()).index(unit)
    begun = STARTED + UNIT_S * (number // len(REPLICAS))
    return Receipt(
        plan=plan.id,
        unit=(unit.file, unit.first, unit.last),
        source=(file.name, file.version, file.footer),
        attempt="x",
        rows=table.num_rows,
        failed=table.num_rows - table["error"].null_count,
        prompt_tokens=sum(table["prompt_tokens"].to_pylist()),
        completion_tokens=sum(filter(None, table["completion_tokens"].to_pylist())),
        begun=begun,
        finished=begun + UNIT_S,
        replica=REPLICAS[number % len(REPLICAS)],
        latencies=(0, 0, table.num_rows),
    )


def with_receipt(table: pa.Table, receipt: Receipt) -> pa.Table:
    """Put a receipt where a part has it."""
    metadata = {**(table.schema.metadata or {}), PART_KEY: receipt.to_json()}
    return table.replace_schema_metadata(metadata)


def make_output(
    folder: Path,
    *,
    rows: tuple[int, ...] = (50, 20, 0),
    url: str | None = None,
    source: Callable[[int], pa.Table] = columns,
    parts: int | None = None,
    unit_rows: int = 16,
) -> Made:
    """Write inputs, and the output that a job over them would have left.

    Args:
        folder: for both.
        rows: of each input file.
        url: of the output, if it lies elsewhere.
        source: the columns of an input file of so many rows.
        parts: how many there are already; None is a complete job.
        unit_rows: of each unit.
    """
    inputs = folder / "in"
    for number, count in enumerate(rows):
        write(inputs / f"f{number}.parquet", source(count), row_group_size=24)
    footers = read_footers(find_files((str(inputs),)), None)
    kept = footers[0].schema.remove_metadata()
    plan = make_plan(
        {"model": "m", "keep": ", ".join(f"{field.name}: {field.type}" for field in kept)},
        [footer.file for footer in footers],
        limit=None,
        unit_rows=unit_rows,
        placement=place(Resources(replicas=1), [{"CPU": 4.0}]),
        seed=7,
    )
    made = Made(url or str(folder / "out"), plan, inputs)
    made.store.put_if_absent(PLAN_NAME, plan.to_json())
    receipts = dict(_commit(made, kept, made.units[:parts]))
    if parts is None:
        finish(made.store, plan, receipts)
    return made


def _commit(made: Made, kept: pa.Schema, units: list[Unit]) -> Iterator[tuple[Unit, Receipt]]:
    plan = made.plan
    for unit in units:
        file = plan.files[unit.file]
        source = pq.read_table(file.path).slice(unit.first, unit.rows).cast(kept)
        table = pa.table(results(file.name, unit), schema=RESULTS)
        for at, field in enumerate(kept):
            table = table.add_column(at, field, source[field.name])
        receipt = receipt_of(plan, unit, table)
        sink = pa.BufferOutputStream()
        pq.write_table(with_receipt(table, receipt), sink, compression="zstd")
        made.store.put_if_absent(plan.part_name(unit), sink.getvalue().to_pybytes())
        yield unit, receipt
