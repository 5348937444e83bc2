"""Constraints that can't be compiled: refused in one line, soon, and without harm."""

import subprocess
import time
from typing import Any

import pytest

from model import ConstraintError
from model.constrain import check_constraint, trial
from model.constrain.limits import TRIAL_CPU_S

from .hostile import ENDURED, REFUSED, params


def check(settings: dict[str, Any]) -> None:
    constraint = params(settings).constraint
    assert constraint is not None
    check_constraint(constraint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regex": "a("}, "regex: unclosed group"),
        ({"regex": "(?=a)a"}, "regex: look-around, including look-ahead and look-behind"),
        ({"regex": r"(a)\1"}, "regex: backreferences are not supported"),
        ({"regex": "[]"}, "regex: unclosed character class"),
        ({"json_schema": {"type": "text"}}, "json_schema: Invalid type: text"),
        ({"json_schema": {"not": {}}}, 'json_schema: Unimplemented keys: ["not"]'),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, '["uniqueItems"]'),
        ({"json_schema": {"type": "string", "format": "colour"}}, "Unknown format: colour"),
        ({"json_schema": {"$ref": "http://localhost/s.json"}}, "retrieving it failed"),
        ({"json_schema": {"$ref": "file:///etc/passwd"}}, "retrieving it failed"),
        ({"json_schema": {"enum": []}}, "Unsatisfiable schema"),
        (
            {"json_schema": {"oneOf": [{"type": "integer"}, {"type": "number"}]}},
            "json_schema: oneOf is not supported where its parts may both hold; use anyOf",
        ),
        ({"json_schema": {"type": "string", "pattern": "a("}}, "json_schema: unclosed group"),
    ],
)
def test_what_is_not_understood_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConstraintError) as error:
        check(settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_harm_is_refused(name: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ConstraintError) as error:
        check(REFUSED[name])
    assert "\n" not in str(error.value)
    # Of a busy machine's time; the limit is one of CPU time.
    assert time.monotonic() - begun < 20 * TRIAL_CPU_S


@pytest.mark.parametrize("name", ENDURED)
def test_what_only_looks_like_harm_is_compiled(name: str) -> None:
    check(ENDURED[name])


def test_choices_and_any_object_need_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "run", run)
    check({"choice": ["a", "b"]})
    check({"json_object": True})


def test_a_trial_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_WALL_S", 0.01)
    with pytest.raises(ConstraintError, match="regex: took more than 0 s to compile"):
        check({"regex": "a"})


def test_a_trial_is_held_to_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_MEMORY", 1 << 20)
    with pytest.raises(ConstraintError, match="regex: "):
        check({"regex": "a"})
