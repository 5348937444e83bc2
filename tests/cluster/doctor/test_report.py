"""What a person sees, and the exit status."""

import json

import pytest

from cluster.doctor.examination import report
from cluster.doctor.finding import ok, problem, warning
from tests.cluster.conftest import Command

FINE, LAME, BAD = ok("a", "is here"), warning("b", "is slow", "get c"), problem("d", "is not", "go")


def test_each_check_is_a_line_and_what_to_do_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([FINE, LAME, BAD], as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok       a: is here",
        "warning  b: is slow",
        "         -> get c",
        "PROBLEM  d: is not",
        "         -> go",
    ]


def test_warnings_are_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([FINE, LAME], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "check": "b", "state": "warning", "text": "is slow", "fix": "get c",
    }  # fmt: skip


def test_the_command_looks_at_this_machine(
    gemmaray: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    finished = gemmaray("doctor", "/no/such/model", "--port", "1", "--json")
    found = {item["check"]: item["state"] for item in json.loads(finished.out)}
    assert finished.status == 1
    assert found["model"] == "problem"
    assert {"python", "names", "packages", "memory", "open files", "disk", "ray"} <= set(found)
    assert found["python"] == found["ray"] == "ok"
