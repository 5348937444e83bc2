"""Failed rows tried again: which rows are read, and how parts get their new answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.trace import Trace
from model.errors import PromptError
from pipelines import JobError
from pipelines.commit import commit, committed, read_receipt
from pipelines.errors import RowKilledProcess
from pipelines.packet import PROMPTS, make_packet, result_table, rows_of, unit_of, unpacked
from pipelines.plan import Unit
from pipelines.prepare import PROMPT_SCHEMA
from pipelines.reader import PLAIN, UnitRows
from pipelines.retry import FailedRows, MendedParts
from pipelines.schema import output_schema
from pipelines.storage import Store, open_store
from pipelines.tasks import JobTasks
from pipelines.work import JobWork
from tests.conftest import Bucket

from .data import spec
from .memory_store import MemoryStore
from .test_isolation import answer
from .test_plan import plan

TASKS = JobTasks.of(spec().tasks, None)
WORK = JobWork(TASKS, 7)
KINDS = {
    "id": pa.int64(),
    "group": pa.dictionary(pa.int8(), pa.string()),
    "body": pa.large_string(),
    "half": pa.float16(),
}
KEPT = pa.schema(list(KINDS.items()))
SCHEMA = output_schema(KEPT, TASKS)
MADE = plan(30, unit_rows=20)
UNIT = Unit(0, 20, 30)
NAME = MADE.part_name(UNIT)
TRACE = Trace(1.0, 2.0, "first", (10,), 1)
KILLED, LONG = RowKilledProcess("it ended"), PromptError("too long")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(str(tmp_path))
    else:
        bucket: Bucket = request.getfixturevalue("s3")
        yield open_store(bucket.url("out"))


def commit_part(store: Store, failed: dict[int, Any]) -> None:
    """A part in which these of the rows 20 to 29 failed."""
    count = UNIT.rows
    values: dict[str, list[Any]] = {
        "id": list(range(UNIT.first, UNIT.last)),
        "group": [f"g{n % 3}" for n in range(count)],
        "body": ["text"] * count,
        "half": [0.5] * count,
    }
    arrays = [pa.array(values[name], kind) for name, kind in KINDS.items()]
    kept = pa.table(arrays, schema=KEPT)
    rows = [{"prompt_ids": [1], "prompt_tokens": 5, "spaced": False}] * count
    packet = make_packet(UNIT, "f0.parquet", pa.Table.from_pylist(rows, PROMPT_SCHEMA), kept)
    outcomes = {n: failed.get(UNIT.first + n, answer(UNIT.first + n)) for n in range(count)}
    table = result_table(WORK.answered(packet, outcomes, TRACE), SCHEMA)
    commit(store, MADE, UNIT, table, TRACE)


def retried(outcomes: dict[int, Any]) -> pa.Table:
    """A computed packet of some rows."""
    rows = [{"prompt_ids": [1], "prompt_tokens": 5, "spaced": False}] * len(outcomes)
    prompts = pa.Table.from_pylist(rows, PROMPT_SCHEMA)
    packet = make_packet(UNIT, "f0.parquet", prompts, pa.table({}), list(outcomes))
    trace = Trace(8.0, 9.0, "second", (1,), 1)
    return WORK.answered(packet, dict(enumerate(outcomes.values())), trace)


def part(store: Store) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read(NAME)))


def test_only_the_failed_rows_are_replaced(store: Store) -> None:
    commit_part(store, {22: KILLED, 25: KILLED, 29: LONG})
    before = part(store)
    # Row 21 was good already, as when another retry was faster: its first answer stays.
    new = retried({21: answer(1000), 22: answer(22), 25: PromptError("worse")})
    receipt = MendedParts(store, MADE, SCHEMA).put(new)
    after = part(store)
    assert after.schema == before.schema
    for index, (old, row) in enumerate(zip(before.to_pylist(), after.to_pylist(), strict=True)):
        if index == 2:
            assert (row["generated_text"], row["error"]) == ("answer 22", None)
        elif index == 5:
            assert (row["error_class"], row["error"]) == ("PromptError", "worse")
        else:
            assert row == old
    assert (receipt.failed, receipt.rows) == (2, 10)
    assert {item.message for item in receipt.errors} == {"worse"}
    assert (receipt.begun, receipt.replica, receipt.latencies) == (1.0, "first", (10,))
    assert committed(store, MADE) == {UNIT: receipt}
    assert store.names() == {NAME}


@given(st.sets(st.integers(20, 29)), st.sets(st.integers(20, 29)))
def test_any_rows_can_be_mended_in_any_part(failed: set[int], tried: set[int]) -> None:
    store = MemoryStore()
    commit_part(store, dict.fromkeys(failed, KILLED))
    before = read_receipt(store, NAME)
    receipt = MendedParts(store, MADE, SCHEMA).put(retried({r: answer(r) for r in sorted(tried)}))
    table = part(store)
    assert table["source_row"].to_pylist() == list(range(20, 30))
    assert table["id"].to_pylist() == list(range(20, 30))
    left = [e is not None for e in table["error"].to_pylist()]
    assert left == [row in failed - tried for row in range(20, 30)]
    assert receipt.failed == len(failed - tried)
    assert (receipt == before) == (not failed & tried)


class _Raced(MemoryStore):
    """Somebody else mends row 22 just before the first replacement."""

    races = 1

    def replace(self, name: str, data: bytes, version: str) -> bool:
        if self.races:
            self.races -= 1
            store = MemoryStore(self.files)
            MendedParts(store, MADE, SCHEMA).put(retried({22: answer(1022 + self.races)}))
        return super().replace(name, data, version)


def test_who_loses_the_race_reads_again() -> None:
    store = _Raced()
    commit_part(store, {22: KILLED, 25: KILLED})
    receipt = MendedParts(store, MADE, SCHEMA).put(retried({22: answer(22), 25: answer(25)}))
    texts = part(store)["generated_text"].to_pylist()
    assert (texts[2], texts[5], receipt.failed) == ("answer 1022", "answer 25", 0)


def test_a_part_that_changes_all_the_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    commit_part(store, {22: KILLED})
    monkeypatch.setattr(store, "replace", lambda *_: False)
    with pytest.raises(JobError, match="try again"):
        MendedParts(store, MADE, SCHEMA).put(retried({22: answer(22)}))


def test_a_part_of_an_older_version_gets_the_column_that_it_lacks(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    commit_part(store, {22: KILLED, 29: LONG})
    pq.write_table(part(store).drop_columns(["error_class"]), tmp_path / NAME)
    MendedParts(store, MADE, SCHEMA).put(retried({22: answer(22)}))
    after = part(store)
    assert after.schema.names == SCHEMA.names
    assert after["error"].to_pylist() == [None] * 9 + ["too long"]


class Maker:
    """Keeps the rows that it is asked to prepare."""

    columns = ("text",)
    read = PLAIN

    def __init__(self) -> None:
        self.rows: list[UnitRows] = []

    def packet(self, rows: UnitRows, file_name: str) -> pa.Table:
        self.rows.append(rows)
        cells: list[dict[str, Any]] = [{"spaced": False}] * rows.table.num_rows
        return make_packet(
            rows.unit, file_name, pa.Table.from_pylist(cells, PROMPT_SCHEMA), pa.table({})
        )


@pytest.mark.parametrize(
    ("everything", "rows"), [(False, [22, 25]), (True, [22, 25, 29])], ids=["default", "all"]
)
def test_only_failed_rows_are_prepared(store: Store, everything: bool, rows: list[int]) -> None:
    commit_part(store, {22: KILLED, 25: KILLED, 29: LONG})
    texts = pa.array([f"t{n}" for n in range(20, 30)], pa.string_view())
    read = UnitRows(UNIT, pa.table({"text": texts}), {5: "damaged", 6: "damaged"})
    maker = Maker()
    failed = FailedRows(maker, store, MADE, everything=everything)
    assert failed.columns == ("text",)
    packet = failed.packet(read, "f0.parquet")
    assert (unit_of(packet), rows_of(packet)) == (UNIT, rows)
    assert unpacked(packet, PROMPTS).num_rows == len(rows)
    assert maker.rows[0].table["text"].to_pylist() == [f"t{row}" for row in rows]
    assert maker.rows[0].faults == {1: "damaged"}


def test_a_part_without_failed_rows_gives_an_empty_packet(store: Store) -> None:
    commit_part(store, {})
    read = UnitRows(UNIT, pa.table({"text": ["t"] * 10}), {})
    packet = FailedRows(Maker(), store, MADE, everything=True).packet(read, "f0.parquet")
    assert rows_of(packet) == []
