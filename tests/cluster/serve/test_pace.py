"""The time between tokens of streams."""

import pytest

import cluster.serve.pace
from actors.calls import Added, Begun, Ended
from cluster.serve.pace import Pace
from model.outputs import TokenDelta


def added(prompt: int, index: int, tokens: int) -> Added:
    return Added(prompt, TokenDelta(index, tuple(range(tokens)), "x"), {})


def test_each_answer_has_a_pace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(cluster.serve.pace.time, "monotonic", lambda: now)
    pace = Pace()
    assert list(pace.of([Begun(None), added(0, 0, 1), added(0, 1, 1)])) == []
    now = 1.0
    assert list(pace.of([added(0, 0, 1)])) == [1.0]
    now = 3.0
    # The second answer of the prompt waited since 0, the first since 1; another prompt begins.
    assert list(pace.of([added(0, 0, 1), added(0, 1, 1), added(1, 0, 1)])) == [2.0, 3.0]
    now = 4.0
    assert list(pace.of([added(1, 0, 1), added(1, 0, 3), Ended(1, 5)])) == [0.25]
    assert list(pace.of([added(0, 0, 0)])) == []
