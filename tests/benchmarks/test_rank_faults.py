"""Faults that are really delivered, and what the script makes of those that end badly."""

import json
from pathlib import Path

import pytest

from benchmarks import rank_faults
from benchmarks.rank_faults import FAULTS, Trial, summary


@pytest.mark.slow
def test_a_kill_and_a_raise(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--kill=1", "--stop=0", "--raise=2", "--seed=3"]
    rank_faults.main([f"--checkpoint={checkpoint}", *few])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["seed"] == 3
    assert list(line["faults"]) == ["kill", "raise"]
    for how, figures in line["faults"].items():
        assert figures["delivered"] == figures["trials"]
        assert 0 < figures["median_s"] <= figures["slowest_s"] <= FAULTS[how].bound_s
        assert figures["orphans"] == 0
        assert figures["missed"] == []


@pytest.mark.parametrize(
    "trial",
    [
        Trial("load", 0.1, delivered=False, seconds=None, orphans=0),
        Trial("load", 0.1, delivered=True, seconds=None, orphans=0),
        Trial("decode", 0.1, delivered=True, seconds=2.1, orphans=0),
        Trial("decode", 0.1, delivered=True, seconds=0.3, orphans=1),
    ],
)
def test_what_ends_badly_is_named(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    good = Trial("prefill", 0.2, delivered=True, seconds=0.4, orphans=0)
    assert summary("kill", [good])["missed"] == []
    figures = summary("kill", [good, trial])
    assert figures["missed"] == [trial._asdict()]
    assert figures["delivered"] == 1 + trial.delivered
    monkeypatch.setattr(rank_faults, "measure", lambda *_: {"kill": [good, trial]})
    with pytest.raises(SystemExit) as end:
        rank_faults.main([f"--checkpoint={checkpoint}", "--seed=1"])
    assert end.value.code == 1
