"""Rows that end processes, found by computing them alone; the processes here are played."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import ceil, log2
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.trace import Trace
from model.outputs import Completion, GenerationOutput, RequestOutput
from pipelines import JobError, isolation
from pipelines.attempts import forget_all, note, noted
from pipelines.commit import Receipt
from pipelines.isolation import Isolation
from pipelines.packet import ANSWERS, PROMPTS, for_rows, make_packet, rows_of, unit_of, unpacked
from pipelines.plan import Plan, Unit
from pipelines.prepare import PROMPT_SCHEMA
from pipelines.schema import output_schema
from pipelines.sink import NewParts
from pipelines.storage import Store
from pipelines.stream import Stream
from pipelines.tasks import JobTasks
from pipelines.trials import FOLDER, forget_committed
from pipelines.work import JobWork

from .data import spec
from .memory_store import KilledError, MemoryStore
from .test_plan import plan

TASKS = JobTasks.of(spec().tasks, None)
KEPT = pa.schema([("id", pa.int64())])
SCHEMA = output_schema(KEPT, TASKS)
MADE = plan(1000, unit_rows=500)
UNIT = Unit(0, 500, 1000)


def packet(unit: Unit, failed: int | None = None) -> pa.Table:
    rows = [
        {"error_class": "PromptError", "error": "too long"}
        if row == failed
        else {"prompt_ids": [row + 1], "prompt_tokens": 1, "spaced": False}
        for row in range(unit.first, unit.last)
    ]
    kept = pa.table({"id": range(unit.first, unit.last)}, schema=KEPT)
    return make_packet(unit, "a", pa.Table.from_pylist(rows, PROMPT_SCHEMA), kept)


def stream(store: MemoryStore, made: Plan) -> Stream:
    unused = cast("Any", None)
    return Stream(
        plan=made,
        maker=unused,
        work=JobWork(TASKS, 7, NewParts(store, made, SCHEMA)),
        engine=unused,
        placement=unused,
        flow=unused,
    )


class Played:
    """Answers a row with its number, unless `dies` says that the rows end the process.

    Attributes:
        trials: the ranges that were tried.
    """

    def __init__(self, work: JobWork, dies: Callable[[set[int]], bool]) -> None:
        self._work = work
        self._dies = dies
        self.trials: list[tuple[int, ...]] = []

    def compute(self, part: pa.Table) -> pa.Table | None:
        rows = rows_of(part)
        errors = unpacked(part, PROMPTS)["error"].to_pylist()
        asked = {n: row for n, row in enumerate(rows) if errors[n] is None}
        self.trials.append(tuple(rows))
        if self._dies(set(asked.values())):
            return None
        outcomes = {n: answer(row) for n, row in asked.items()}
        return self._work.answered(part, outcomes, Trace(1.0, 2.0, "alone", (len(asked),), 3))


def answer(row: int) -> RequestOutput:
    result = GenerationOutput(1, (Completion((row,), f"answer {row}", "stop", 0.0),))
    return RequestOutput("r", 1, (result,))


def isolate(
    store: MemoryStore, unit: Unit, dies: Callable[[set[int]], bool], **options: Any
) -> tuple[Receipt, Played]:
    job = stream(store, MADE)
    played = Played(job.work, dies)
    return Isolation(job, played).commit(packet(unit, **options)), played


def part(store: MemoryStore, unit: Unit) -> pa.Table:
    table = pq.read_table(pa.BufferReader(store.read(MADE.part_name(unit))))
    assert table["source_row"].to_pylist() == list(range(unit.first, unit.last))
    assert table["id"].to_pylist() == list(range(unit.first, unit.last))
    return table


def check_part(store: MemoryStore, unit: Unit, poison: set[int]) -> None:
    """Each row has its answer or, if it is one of these, says what it does; no note is left."""
    for row in part(store, unit).to_pylist():
        number = row["source_row"]
        if number in poison:
            assert row["error_class"] == "RowKilledProcess"
            assert row["generated_text"] is None
        else:
            assert (row["error"], row["generated_text"]) == (None, f"answer {number}")
    assert store.names(FOLDER) == set()
    assert noted(store) == {}


def test_an_innocent_unit_is_committed_as_any_other() -> None:
    store = MemoryStore()
    for attempt in (1, 2, 3):
        note(store, UNIT, attempt)
    receipt, played = isolate(store, UNIT, lambda _: False, failed=510)
    assert [len(rows) for rows in played.trials] == [500]
    assert (receipt.rows, receipt.failed) == (500, 1)
    assert (receipt.begun, receipt.finished, receipt.replica) == (1.0, 2.0, "alone")
    assert sum(receipt.latencies) == 499
    assert part(store, UNIT)["error"][10].as_py() == "too long"
    assert (store.names(FOLDER), noted(store)) == (set(), {})


@settings(max_examples=40, deadline=None)
@given(poison=st.sets(st.integers(500, 999), max_size=6))
def test_exactly_the_rows_that_end_processes_become_errors(poison: set[int]) -> None:
    store = MemoryStore()
    receipt, played = isolate(store, UNIT, lambda rows: bool(rows & poison))
    check_part(store, UNIT, poison)
    assert receipt.failed == len(poison)
    assert {item.name: item.count for item in receipt.errors} == (
        {"RowKilledProcess": len(poison)} if poison else {}
    )
    # Each of them is tried once more than a bisection would.
    assert len(played.trials) <= 1 + 2 * len(poison) * ceil(log2(500)) + len(poison)
    for row in poison:
        assert played.trials.count((row,)) == 2


def test_the_error_says_how_often() -> None:
    store = MemoryStore()
    isolate(store, UNIT, lambda rows: 600 in rows)
    message = part(store, UNIT)["error"][100].as_py()
    assert message == "the process that computed this row alone ended, 2 times"


def test_rows_that_end_a_process_only_together_all_get_their_answers() -> None:
    store = MemoryStore()
    isolate(store, UNIT, lambda rows: {510, 990} <= rows)
    check_part(store, UNIT, set())


def test_a_row_that_ends_its_process_once_is_not_given_up() -> None:
    store, seen = MemoryStore(), []

    def dies(rows: set[int]) -> bool:
        seen.append(rows)
        return 600 in rows and (len(rows) > 1 or seen.count(rows) == 1)

    isolate(store, UNIT, dies)
    check_part(store, UNIT, set())


@settings(max_examples=40, deadline=None)
@given(
    poison=st.sets(st.integers(500, 999), max_size=3),
    kills=st.lists(st.integers(0, 60), max_size=3),
)
def test_a_killed_run_is_gone_on_with(poison: set[int], kills: list[int]) -> None:
    store, tried = MemoryStore(), []

    def dies(rows: set[int]) -> bool:
        tried.append(rows)
        return bool(rows & poison)

    for steps in [*kills, None]:
        store.steps = steps
        with suppress(KilledError):
            isolate(store, UNIT, dies)
        if MADE.part_name(UNIT) in store.files:
            break
    store.steps = None
    forget_committed(store, {UNIT})  # as the next run does
    forget_all(store, [(UNIT, range(1, 4))])
    check_part(store, UNIT, poison)
    # A kill costs the trial that it fell into, and a bisection's step where it looks like a death.
    fewest = 1 + 2 * len(poison) * ceil(log2(500)) + len(poison)
    assert len(tried) <= fewest + 4 * len(kills)


def test_a_row_that_takes_the_machine_along_is_found_as_well() -> None:
    store, runs = MemoryStore(), 0

    def dies(rows: set[int]) -> bool:
        if 777 in rows:
            store.kill()
        return False

    while MADE.part_name(UNIT) not in store.files:
        runs += 1
        assert runs < 40
        store.steps = None
        with suppress(KilledError):
            isolate(store, UNIT, dies)
    check_part(store, UNIT, {777})


def test_a_run_that_is_stopped_in_good_order_accuses_nobody() -> None:
    store = MemoryStore()

    def interrupted(rows: set[int]) -> bool:
        raise KeyboardInterrupt

    for _ in range(10):
        with pytest.raises(KeyboardInterrupt):
            isolate(store, Unit(0, 0, 1), interrupted)
    assert store.names(FOLDER) == set()


def test_when_every_row_ends_its_process_the_rows_are_not_to_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation, "MOST_CONDEMNED", 5)
    store, poison = MemoryStore(), set(range(100, 112))
    unit = Unit(0, 0, 500)
    messages = []
    while MADE.part_name(unit) not in store.files:
        try:
            isolate(store, unit, lambda rows: bool(rows & poison))
        except JobError as error:
            messages.append(str(error))
    assert len(messages) == 2  # the rows that were given up before do not count again
    assert all("a rows 0-500" in text and "\n" not in text for text in messages)
    check_part(store, unit, poison)


class Shelf:
    """Keeps the packets that would be made parts."""

    def __init__(self) -> None:
        self.packets: list[pa.Table] = []
        self.store: Store = MemoryStore()

    def put(self, made: pa.Table) -> Receipt:
        self.packets.append(made)
        return Receipt("p", (0, 0, 4), ("a", "v", "d"), "x", 4, 0, 0, 0)


def test_some_rows_of_a_unit_can_be_isolated() -> None:
    """As in a retry: the packet holds the failed rows and no others."""
    shelf = Shelf()
    job = replace(stream(MemoryStore(), MADE), work=JobWork(TASKS, 7, shelf))
    made = for_rows(packet(Unit(0, 0, 4)), [3, 30, 31, 400])
    Isolation(job, Played(job.work, lambda rows: 31 in rows)).commit(made)
    (whole,) = shelf.packets
    assert (rows_of(whole), unit_of(whole)) == ([3, 30, 31, 400], Unit(0, 0, 4))
    texts = unpacked(whole, ANSWERS)["generated_text"].to_pylist()
    assert texts == ["answer 3", "answer 30", None, "answer 400"]


def test_a_packet_without_rows_asks_for_nothing() -> None:
    shelf = Shelf()
    job = replace(stream(MemoryStore(), MADE), work=JobWork(TASKS, 7, shelf))
    played = Played(job.work, lambda _: True)
    Isolation(job, played).commit(packet(Unit(0, 0, 0)))
    assert (len(shelf.packets), played.trials) == (1, [])
