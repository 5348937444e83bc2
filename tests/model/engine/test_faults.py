"""A rank that is killed, stopped or raises, at load, prefill or decode: a bounded end, no orphans.

Each fault strikes inside the rank's process, see `faulty_rank`; `pytest -s` shows how long it took
to end.
"""

import gc
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from model import Engine, EngineConfig, EngineDeadError, SamplingParams
from model.checkpoint import Shard
from model.engine import runner
from tests.model.helpers import random_ids, report

from .conftest import Children, MakeEngine

ENDS_WITHIN_S = {"kill": 2.0, "raise": 2.0, "stop": 15.0}
SAYS = {
    "kill": r"rank 1 died \(exit status -9\)",
    "raise": r"rank 1: RuntimeError: a fault on purpose",
    "stop": r"rank 1 gave no sign of life for (10|3) s",
}
ANSWER = SamplingParams(max_tokens=4, ignore_eos=True)


@pytest.fixture(autouse=True)
def _no_orphans(children: Children) -> Iterator[None]:
    yield
    assert not children()


@pytest.fixture
def run_into(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., float]:
    """Build an engine and generate, with a fault; gives the seconds from the fault to its end."""
    monkeypatch.setattr("model.engine.child.PROGRAM", "tests.model.engine.faulty_rank")
    monkeypatch.setenv("FAULT_AT", str(tmp_path / "at"))

    def run(fault: str, says: str, *, ranks: int = 2, **settings: Any) -> float:
        monkeypatch.setenv("FAULT", fault)
        engines: list[Engine] = []

        def build_and_generate() -> None:
            engines.append(make(tensor_parallel=ranks, **settings))
            engines[0].generate([random_ids(9)], ANSWER)
            engines[0].generate([random_ids(9, seed=1)], ANSWER)  # no prefix of it is known

        with pytest.raises(EngineDeadError, match=says):
            build_and_generate()
        ended = time.monotonic() - float((tmp_path / "at").read_text())
        for engine in engines:
            with pytest.raises(EngineDeadError, match=says):
                engine.generate([random_ids(9)], ANSWER)
        return ended

    return run


@pytest.mark.slow
@pytest.mark.parametrize("when", ["load", "prefill", "decode"])
@pytest.mark.parametrize("how", ["kill", "raise", "stop"])
def test_a_fault_ends_the_group_soon(
    how: str,
    when: str,
    run_into: Callable[..., float],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    if how == "stop" and when != "decode":  # ten seconds once will do
        monkeypatch.setattr("model.engine.watchdog.SILENCE_S", 3.0)
    took = run_into(f"{how}:{when}:1", SAYS[how])
    report(record_property, "faults", f"seconds from {how} at {when} to the end", took)
    assert took < ENDS_WITHIN_S[how]


@pytest.mark.slow
def test_a_leader_that_is_still_loading_ends_too(
    run_into: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, until = runner.load, time.monotonic() + 60

    def load_for_a_minute(shards: Iterable[Shard], *arguments: Any) -> None:
        tensors = list(shards)
        while time.monotonic() < until:
            load(tensors, *arguments)

    monkeypatch.setattr(runner, "load", load_for_a_minute)
    assert run_into("kill:load:1", SAYS["kill"]) < ENDS_WITHIN_S["kill"]


@pytest.mark.slow
def test_a_rank_that_is_stopped_before_its_first_word(
    make: MakeEngine, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.engine.watchdog.SILENCE_S", 2.0)

    def stop() -> None:
        wait_until(lambda: bool(children()))
        psutil.Process(children().pop()).suspend()

    threading.Thread(target=stop).start()
    with pytest.raises(EngineDeadError, match=r"rank 1 gave no sign of life for 2 s"):
        make(tensor_parallel=2)


@pytest.mark.slow
def test_the_rank_that_died_is_named_among_those_that_lost_it(
    run_into: Callable[..., float],
) -> None:
    assert run_into("kill:decode:2", r"rank 2 died \(exit status -9\)", ranks=4) < 2.0


@pytest.mark.slow
def test_ranks_that_wait_for_each_other_are_ended(
    run_into: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("watchdog", "pace"):
        monkeypatch.setattr(f"model.engine.{module}.LEAST_S", 1.0)
    # The second prompt's step hangs; the first one's shows how long such steps take.
    assert run_into("sleep:again:1", "a step of 9 tokens did not end within 1.0 s") < 3.0


@pytest.mark.slow
def test_a_leader_that_nothing_frees_is_reported(
    make: MakeEngine, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.engine.watchdog.STUCK_S", 0.2)
    freed = threading.Event()
    reports: list[EngineDeadError] = []

    def on_stuck(failure: EngineDeadError) -> None:
        reports.append(failure)
        freed.set()

    engine = make(tensor_parallel=2, on_stuck=on_stuck)
    (rank,) = map(psutil.Process, children())
    monkeypatch.setattr("model.engine.executor.compute", lambda *_: (rank.kill(), freed.wait(30)))
    with pytest.raises(EngineDeadError, match=r"^a step failed: rank 1 died"):
        engine.generate([random_ids(9)], ANSWER)
    (failure,) = reports
    assert re.search(r"rank 1 died .*; rank 0 hangs too, in process \d+$", str(failure))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["sleep:decode:1", "stop:decode:1"])
def test_ranks_end_with_a_parent_that_is_killed_amid_a_step(
    fault: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    program = (
        "import model.engine.child\n"
        "from model import Engine, EngineConfig, SamplingParams\n"
        "model.engine.child.PROGRAM = 'tests.model.engine.faulty_rank'\n"
        f"engine = Engine(EngineConfig(checkpoint={str(folders['lm'])!r}, tensor_parallel=2))\n"
        "engine.generate([[5, 6, 7]], SamplingParams(max_tokens=9, ignore_eos=True))\n"
    )
    at = tmp_path / "at"
    environment = {**os.environ, "FAULT": fault, "FAULT_AT": str(at)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    wait_until(at.exists)
    (rank,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    wait_until(lambda: not rank.is_running())


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (ValueError("of rank 0"), EngineDeadError, "a step failed: of rank 0"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_what_the_leader_raises_amid_a_step_ends_the_group_too(
    error: BaseException,
    raised: type[BaseException],
    says: str | None,
    make: MakeEngine,
    children: Children,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make(tensor_parallel=2)
    monkeypatch.setattr("model.engine.executor.compute", Mock(side_effect=error))
    with pytest.raises(raised, match=says):
        engine.generate([random_ids(9)], ANSWER)
    assert not children()
    with pytest.raises(EngineDeadError, match="a step failed"):
        engine.generate([random_ids(9)], ANSWER)


@pytest.mark.slow
def test_ranks_end_with_an_engine_that_nobody_closes(
    folders: dict[str, Path], children: Children
) -> None:
    engine = Engine(EngineConfig(checkpoint=str(folders["lm"]), tensor_parallel=2, threads=1))
    assert children()
    del engine
    gc.collect()
    wait_until(lambda: not children())
