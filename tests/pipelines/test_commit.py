import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.trace import Trace
from pipelines import ErrorCount, JobError
from pipelines.commit import (
    PART_KEY,
    SUCCESS_NAME,
    Receipt,
    commit,
    committed,
    each_committed,
    finish,
    read_receipt,
)
from pipelines.ledger import Ledger
from pipelines.local_store import LocalStore
from pipelines.plan import Plan, Unit
from pipelines.storage import Store, open_store
from tests.conftest import Bucket

from .test_plan import plan


def part(unit: Unit, *, attempt: str = "", failed: bool = False) -> pa.Table:
    count = unit.rows
    return pa.table(
        {
            "source_file": pa.array([f"f{unit.file}.parquet"] * count, pa.string()),
            "source_row": pa.array(range(unit.first, unit.last), pa.int64()),
            "prompt_tokens": pa.array([3] * count, pa.int32()),
            "completion_tokens": pa.array([2] * count, pa.int32()),
            "generated_text": pa.array([attempt] * count, pa.string()),
            "error_class": pa.array(["PromptError" if failed else None] * count, pa.string()),
            "error": pa.array(["bad" if failed else None] * count, pa.string()),
        }
    )


def in_duckdb(folder: Path) -> int:
    rows = duckdb.execute(f"select * from '{folder}/*.parquet'").fetchall()
    return len(rows)


def run(store: Store, made: Plan, units: list[Unit], **options: Any) -> None:
    for unit in units:
        commit(store, made, unit, part(unit, **options))


def test_a_part_is_the_units_rows_and_a_receipt(tmp_path: Path) -> None:
    made, store = plan(25), open_store(str(tmp_path))
    receipt = commit(store, made, Unit(0, 10, 20), part(Unit(0, 10, 20), failed=True))
    assert (receipt.rows, receipt.failed, receipt.prompt_tokens) == (10, 10, 30)
    assert receipt.completion_tokens == 20
    assert receipt.plan == made.id
    assert receipt.source == ("f0.parquet", "mtime 1", "0")
    name = made.part_name(Unit(0, 10, 20))
    assert name == f"part-{made.id[:8]}-000000-000000000010-000000000020.parquet"
    assert pq.read_table(tmp_path / name).equals(part(Unit(0, 10, 20), failed=True))
    assert committed(store, made) == {Unit(0, 10, 20): receipt}


def test_a_receipt_says_who_computed_the_part_and_what_failed(tmp_path: Path) -> None:
    made, store, unit = plan(25), open_store(str(tmp_path)), Unit(0, 10, 20)
    trace = Trace(5.5, 7.25, "r1", (4, 0, 6), 2)
    receipt = commit(store, made, unit, part(unit, failed=True), trace)
    assert (receipt.begun, receipt.finished, receipt.replica) == (5.5, 7.25, "r1")
    assert receipt.latencies == (4, 0, 6)
    assert receipt.errors == (ErrorCount("PromptError", 10, "f0.parquet", 10, "bad"),)
    assert read_receipt(store, made.part_name(unit)) == receipt


def test_a_receipt_of_an_older_version_is_read(tmp_path: Path) -> None:
    made, store, unit = plan(25), open_store(str(tmp_path)), Unit(0, 10, 20)
    name = made.part_name(unit)
    values = json.loads(commit(store, made, unit, part(unit, failed=True)).to_json())
    for field in ("begun", "finished", "replica", "latencies", "errors"):
        del values[field]
    store.delete(name)
    table = part(unit, failed=True).replace_schema_metadata({PART_KEY: json.dumps(values)})
    pq.write_table(table, tmp_path / name)
    receipt = read_receipt(store, name)
    assert (receipt.begun, receipt.finished, receipt.replica, receipt.latencies) == (0, 0, "", ())
    assert receipt.known_errors() == (ErrorCount("other", 10),)


def test_receipts_of_one_job_share_what_they_have_in_common() -> None:
    data = Receipt(
        "p" * 64, (0, 0, 9), ("f", "v", "d" * 64), "a", 9, 0, 1, 1, replica="r"
    ).to_json()
    first, second = Receipt.from_json(data), Receipt.from_json(data)
    assert first == second
    assert first.plan is second.plan
    assert first.replica is second.replica
    assert all(a is b for a, b in zip(first.source, second.source, strict=True))


def test_a_mark_from_before_rows_were_mended_is_replaced(tmp_path: Path) -> None:
    made, store = plan(25), open_store(str(tmp_path))
    run(store, made, list(made.units()), failed=True)
    ledger = Ledger(made)
    for receipt in each_committed(store, made):
        ledger.add(receipt)
    finish(store, made, ledger)
    assert json.loads(store.read(SUCCESS_NAME))["failed"] == 25
    mended = {unit: replace(r, failed=0) for unit, r in committed(store, made).items()}
    finish(store, made, mended)
    success = json.loads(store.read(SUCCESS_NAME))
    assert (success["failed"], success["parts"][0]["failed"]) == (0, 0)


def test_the_second_commit_of_a_unit_gives_the_firsts_receipt(tmp_path: Path) -> None:
    made, store, unit = plan(25), open_store(str(tmp_path)), Unit(0, 0, 10)
    first = commit(store, made, unit, part(unit, attempt="first"))
    second = commit(store, made, unit, part(unit, attempt="second", failed=True))
    assert second == first
    (table,) = (pq.read_table(path) for path in tmp_path.glob("*.parquet"))
    assert set(table["generated_text"].to_pylist()) == {"first"}


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_order_of_any_number_of_commits_leaves_one_whole_part_per_unit(
    data: st.DataObject,
) -> None:
    made = plan(25, 0, 12)
    units = list(made.units())
    others = data.draw(st.lists(st.sampled_from(units), max_size=8))
    order = data.draw(st.permutations([*units, *others]))
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for number, unit in enumerate(order):
            commit(store, made, unit, part(unit, attempt=str(number)))
        receipts = committed(store, made)
        finish(store, made, receipts)
        table = pq.read_table(folder)
    assert set(receipts) == set(units)
    firsts = {unit: str(order.index(unit)) for unit in units}
    assert table.select(["source_file", "source_row", "generated_text"]).to_pylist() == [
        {"source_file": f"f{unit.file}.parquet", "source_row": row, "generated_text": firsts[unit]}
        for unit in units
        for row in range(unit.first, unit.last)
    ]


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_the_end_of_a_job(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = plan(25, 0)
    bucket: Bucket | None = request.getfixturevalue("s3") if kind == "s3" else None
    store = open_store(bucket.url("out") if bucket else str(tmp_path))
    units = list(made.units())
    run(store, made, units[:2])
    with pytest.raises(JobError, match="2 parts were written but are not in") as error:
        finish(store, made, {})
    assert made.part_name(units[2]) in str(error.value)
    run(store, made, units[2:], failed=True)
    receipts = committed(store, made)
    finish(store, made, receipts)
    finish(store, made, receipts)
    success = json.loads(store.read(SUCCESS_NAME))
    assert (success["plan"], success["rows"], success["failed"]) == (made.id, 25, 5)
    assert [item["name"] for item in success["parts"]] == [made.part_name(u) for u in units]


def test_readers_see_the_results_and_nothing_else(tmp_path: Path) -> None:
    made, store = plan(25, 0), open_store(str(tmp_path))
    store.put_if_absent("_job/plan.json", made.to_json())
    run(store, made, list(made.units()))
    finish(store, made, committed(store, made))
    assert pq.read_table(tmp_path).num_rows == 25
    assert in_duckdb(tmp_path) == 25


def test_a_result_without_rows_has_a_schema(tmp_path: Path) -> None:
    made, store = plan(0), open_store(str(tmp_path))
    run(store, made, list(made.units()))
    assert pq.read_table(tmp_path).schema.names == part(Unit(0, 0, 0)).schema.names
    assert in_duckdb(tmp_path) == 0


@pytest.mark.parametrize("damage", ["cut", "foreign", "renamed"])
def test_a_part_that_is_not_what_it_says_is_refused(tmp_path: Path, damage: str) -> None:
    made, store = plan(25), LocalStore(str(tmp_path))
    run(store, made, [Unit(0, 0, 10)])
    path = tmp_path / made.part_name(Unit(0, 0, 10))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "foreign":
        pq.write_table(part(Unit(0, 0, 10)), path)
    else:
        path.rename(tmp_path / made.part_name(Unit(0, 10, 20)))
    with pytest.raises(JobError, match=r"is damaged|holds other rows") as error:
        committed(store, made)
    assert path.name[:14] in str(error.value)


def test_parts_that_the_plan_does_not_know_are_refused(tmp_path: Path) -> None:
    made, store = plan(25), open_store(str(tmp_path))
    run(store, made, [Unit(0, 5, 15)])
    with pytest.raises(JobError, match="parts that are not in the plan"):
        committed(store, made)


def test_a_missing_part_is_no_receipt(tmp_path: Path) -> None:
    with pytest.raises(JobError):
        read_receipt(open_store(str(tmp_path)), "part-x.parquet")
