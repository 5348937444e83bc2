"""The claim itself, on a small shard: each prefix is computed once."""

import json
from pathlib import Path

import pytest

from benchmarks import shard_schedule


def test_a_small_shard(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--prefixes=8", "--rows=6", "--prefix-len=160", "--pages=70"]
    shard_schedule.main([f"--checkpoint={checkpoint}", *small])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    best = line["schedules"]["shard"]
    assert best["prefix_computed_most"] == 1.0
    assert best["prompt_tokens"] == line["ideal_prompt_tokens"]
    assert line["schedules"]["fcfs, no prefix cache"]["prefix_computed_mean"] == 6.0
