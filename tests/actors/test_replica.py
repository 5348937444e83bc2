import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, cast

import pyarrow as pa
import pytest

import actors.replica
from actors.replica import Outcome, Replica, Request
from model import Engine
from model.errors import CheckpointError, EngineDeadError
from model.outputs import RequestOutput
from model.params import EngineConfig

from .fake_engine import FakeEngine, generate

CONFIG = EngineConfig(checkpoint="nowhere")


class Board:
    """Records what replicas tell it; `board.method.remote(...)` as on an actor's handle."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return asyncio.sleep(0)

        if name == "begin":
            return type("Method", (), {"remote": staticmethod(remote)})
        return type("Method", (), {"remote": staticmethod(lambda *a: remote(*a).close())})

    def told(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class Work:
    """Packets are tables of prompts; 0 stands for a row that has failed already."""

    def name(self, packet: pa.Table) -> str:
        return f"unit of {packet.num_rows}"

    def requests(self, packet: pa.Table) -> list[Request | None]:
        return [Request([p], generate(2)) if p else None for p in packet["prompt"].to_pylist()]

    def answered(self, packet: pa.Table, outcomes: Mapping[int, Outcome]) -> pa.Table:
        found = [outcomes.get(row) for row in range(packet.num_rows)]
        texts = ["ok" if isinstance(o, RequestOutput) else str(o) for o in found]
        return packet.append_column("answer", pa.array(texts))


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def replica(board: Board, monkeypatch: pytest.MonkeyPatch) -> Replica:
    monkeypatch.setattr(actors.replica, "_build", lambda _: cast("Engine", FakeEngine()))
    return Replica(CONFIG, Work(), board)


def packet(*prompts: int) -> pa.Table:
    return pa.table({"prompt": prompts})


async def both(replica: Replica, *packets: pa.Table) -> list[pa.Table]:
    return list(await asyncio.gather(*(replica(p) for p in packets)))


def test_packets_come_back_with_an_answer_per_row(replica: Replica, board: Board) -> None:
    first, second = asyncio.run(both(replica, packet(5, 13, 0, 6), packet(7)))
    assert first["answer"].to_pylist() == ["ok", "unlucky", "None", "ok"]
    assert second["answer"].to_pylist() == ["ok"]
    assert board.told("begin") == [("unit of 4",), ("unit of 1",)]


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
