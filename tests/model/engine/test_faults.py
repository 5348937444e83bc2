"""A rank that is killed, stopped or raises, at load, prefill or decode: a bounded end, no orphans.

Each fault strikes inside the rank's process, see `faulty_rank`; `pytest -s` shows how long it took
to end.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from model import Engine, EngineDeadError, SamplingParams
from model.engine import pace
from tests.model.helpers import random_ids, report

from .conftest import MakeEngine

ENDS_WITHIN_S = {"kill": 2.0, "raise": 2.0, "stop": 15.0}
SAYS = {
    "kill": r"rank 1 died \(exit status -9\)",
    "raise": r"rank 1: RuntimeError: a fault on purpose",
    "stop": r"rank 1 gave no sign of life for 10 s",
}
ANSWER = SamplingParams(max_tokens=4, ignore_eos=True)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.is_running()}


@pytest.fixture(autouse=True)
def _no_orphans() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


@pytest.fixture
def run_into(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., float]:
    """Build an engine and generate, with a fault; gives the seconds from the fault to its end."""
    monkeypatch.setattr("model.engine.child.PROGRAM", "tests.model.engine.faulty_rank")
    monkeypatch.setenv("FAULT_AT", str(tmp_path / "at"))

    def run(fault: str, says: str, *, ranks: int = 2, **settings: Any) -> float:
        monkeypatch.setenv("FAULT", fault)
        engine: Engine | None = None
        with pytest.raises(EngineDeadError, match=says):
            engine = make(tensor_parallel=ranks, **settings)
            engine.generate([random_ids(9)], ANSWER)
        ended = time.monotonic() - float((tmp_path / "at").read_text())
        if engine is not None:
            with pytest.raises(EngineDeadError, match=says):
                engine.generate([random_ids(9)], ANSWER)
        return ended

    return run


@pytest.mark.slow
@pytest.mark.parametrize("when", ["load", "prefill", "decode"])
@pytest.mark.parametrize("how", ["kill", "raise", "stop"])
def test_a_fault_ends_the_group_soon(
    how: str, when: str, run_into: Callable[..., float], record_property: Any
) -> None:
    took = run_into(f"{how}:{when}:1", SAYS[how])
    report(record_property, "faults", f"seconds from {how} at {when} to the end", took)
    assert took < ENDS_WITHIN_S[how]
