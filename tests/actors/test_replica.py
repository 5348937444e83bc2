import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, cast

import pyarrow as pa
import pytest

import actors.replica
from actors.metrics import Metric
from actors.replica import MAX_ATTEMPTS, Outcome, Replica, Request
from actors.trace import Trace
from model import Engine
from model.errors import CheckpointError, EngineDeadError
from model.outputs import RequestOutput
from model.params import EngineConfig

from .fake_engine import FakeEngine, generate

CONFIG = EngineConfig(checkpoint="nowhere")


class Told:
    """As the reference to a call that returned nothing."""

    def future(self) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done


class Board:
    """Records what replicas tell it; `board.method.remote(...)` as on an actor's handle."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.attempt = 1

    def __getattr__(self, name: str) -> Any:
        async def attempt(number: int) -> int:
            return number

        def remote(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            numbers = {"attempts": self.attempt - 1, "begin": self.attempt}
            return attempt(numbers[name]) if name in numbers else Told()

        return type("Method", (), {"remote": staticmethod(remote)})

    def told(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class Work:
    """Packets are tables of prompts; 0 stands for a row that has failed already."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, bool]] = []
        self.committed: list[bool] = []
        self.traces: list[Trace] = []

    def name(self, packet: pa.Table) -> str:
        return f"unit of {packet.num_rows}"

    def requests(self, packet: pa.Table) -> list[Request | None]:
        return [Request([p], generate(2)) if p else None for p in packet["prompt"].to_pylist()]

    def begin(self, packet: pa.Table, attempt: int) -> None:
        self.begun.append((self.name(packet), attempt, on_the_loop()))

    def answered(self, packet: pa.Table, outcomes: Mapping[int, Outcome], trace: Trace) -> pa.Table:
        self.traces.append(trace)
        found = [outcomes.get(row) for row in range(packet.num_rows)]
        texts = ["ok" if isinstance(o, RequestOutput) else str(o) for o in found]
        return packet.append_column("answer", pa.array(texts))

    def commit(self, packet: pa.Table) -> pa.Table:
        self.committed.append(on_the_loop())
        return packet

    def given_up(self, packet: pa.Table) -> pa.Table:
        return packet.append_column("answer", pa.nulls(packet.num_rows))


def on_the_loop() -> bool:
    return threading.current_thread() is threading.main_thread()


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def replica(board: Board, work: Work, monkeypatch: pytest.MonkeyPatch) -> Replica:
    monkeypatch.setattr(actors.replica, "_build", lambda _: cast("Engine", FakeEngine()))
    return Replica(CONFIG, work, board)


def packet(*prompts: int) -> pa.Table:
    return pa.table({"prompt": prompts})


async def both(replica: Replica, *packets: pa.Table) -> list[pa.Table]:
    return list(await asyncio.gather(*(replica(p) for p in packets)))


def test_packets_are_committed_with_an_answer_per_row(
    replica: Replica, board: Board, work: Work
) -> None:
    first, second = asyncio.run(both(replica, packet(5, 13, 0, 6), packet(7)))
    assert first["answer"].to_pylist() == ["ok", "unlucky", "None", "ok"]
    assert second["answer"].to_pylist() == ["ok"]
    assert board.told("begin") == [("unit of 4",), ("unit of 1",)]
    assert work.committed == [False, False]  # not on the event loop, which must not wait


def test_an_attempt_is_noted_before_it_is_made_and_not_on_the_event_loop(
    replica: Replica, board: Board, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.attempt = MAX_ATTEMPTS
    asyncio.run(both(replica, packet(5)))
    assert work.begun == [("unit of 1", MAX_ATTEMPTS, False)]

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(work, "begin", refuse)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(both(replica, packet(5)))
    assert len(work.traces) == 1


def test_a_unit_that_took_too_many_processes_along_comes_back_without_answers(
    replica: Replica, board: Board, work: Work
) -> None:
    board.attempt = MAX_ATTEMPTS + 1
    (given_up,) = asyncio.run(both(replica, packet(86)))  # which would break the engine
    assert given_up["answer"].null_count == 1
    assert (work.begun, work.committed) == ([], [])


def test_the_last_attempt_is_made_alone(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[FakeEngine] = []

    def build(_: EngineConfig) -> Engine:
        engines.append(FakeEngine())
        return cast("Engine", engines[-1])

    monkeypatch.setattr(actors.replica, "_build", build)
    monkeypatch.setattr(Work, "name", lambda _, packet: str(packet["prompt"].to_pylist()))
    for board.attempt in (1, MAX_ATTEMPTS):
        replica = Replica(CONFIG, Work(), board)
        asyncio.run(both(replica, *(packet(n) for n in range(1, 20))))
    shared, alone = (engine.most for engine in engines)
    assert shared > 1
    assert alone == 1


def test_answers_come_with_who_gave_them_when_and_how_fast(
    replica: Replica, board: Board, work: Work
) -> None:
    before = time.time()
    asyncio.run(both(replica, packet(5, 13, 0, 6)))
    (trace,) = work.traces
    assert before <= trace.begun <= trace.finished <= time.time()
    assert sum(trace.latencies) == 3  # nothing was asked for the row that had failed
    assert trace.attempt == 1
    while not board.told("report"):
        time.sleep(0.01)
    assert trace.replica == board.told("report")[0][0]


def test_alone_a_unit_is_computed_whatever_became_of_it(
    replica: Replica, board: Board, work: Work
) -> None:
    board.attempt = MAX_ATTEMPTS + 1
    assert asyncio.run(replica.compute(packet(5)))["answer"].to_pylist() == ["ok"]
    assert board.told("begin") == []
    assert work.committed == []


def test_it_counts_rows_and_units(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counter[str]()

    class Recorder:
        def record(self, metric: Metric, value: float, *labels: str) -> None:
            counted[metric.name] += int(value)

    monkeypatch.setattr(replica, "_metrics", Recorder())
    asyncio.run(both(replica, packet(5, 13, 0, 6), packet(7)))
    rows = {"gemmaray_job_rows": 5, "gemmaray_job_failed_rows": 2, "gemmaray_job_units": 2}
    assert counted == rows


def test_it_reports_while_it_works(replica: Replica, board: Board) -> None:
    asyncio.run(both(replica, packet(1, 2, 3)))
    end = time.monotonic() + 10
    while len(board.told("report")) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    names = {name for name, _ in board.told("report")}
    assert len(names) == 1


def test_a_checkpoint_that_cannot_work_is_told_and_raised_by_the_first_call(board: Board) -> None:
    broken = Replica(CONFIG, Work(), board)
    assert "nowhere" in board.told("give_up")[0][0]
    with pytest.raises(CheckpointError, match="nowhere"):
        asyncio.run(both(broken, packet(1)))
    with pytest.raises(CheckpointError, match="nowhere"):
        broken.ready()
    # It has nothing to report, but has to hear of the job's end.
    assert {report for _, report in board.told("report")} == {None}


def test_an_engine_that_does_not_come_up_is_a_death(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_: EngineConfig) -> Engine:
        raise EngineDeadError("rank 1 did not start")

    monkeypatch.setattr(actors.replica, "_build", build)
    with pytest.raises(EngineDeadError):
        Replica(CONFIG, Work(), board)
    assert board.told("give_up") == []


def test_an_engine_that_dies_ends_the_process(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ExitedError(BaseException):
        pass

    def leave(status: int) -> None:
        assert status == 1
        raise ExitedError

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(ExitedError):
        asyncio.run(both(replica, packet(86)))
