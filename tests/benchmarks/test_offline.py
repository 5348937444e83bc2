import json
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import offline
from benchmarks.measure import Quiet, Timing, forget_peak_rss, machine, peak_rss, timed
from benchmarks.report import Record

RATES = {
    "requests_per_s",
    "prompt_tokens_per_s",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "gemm_gflops",
    "spread_pct",
}


@pytest.mark.slow
def test_offline_compares_the_engines(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "run.jsonl"
    offline.main(
        f"--checkpoint {checkpoint} --workload uniform:5:0.05 --dtype float32 --threads 1 "
        f"--repeat 2 --max-other inf --set max_batch_tokens=64 --out {out}".split()
    )
    printed = capsys.readouterr()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert records == [json.loads(line) for line in printed.out.splitlines()]
    assert [record["engine"] for record in records] == ["gemmaray", "transformers"]
    named = {field.name for field in fields(Record)} - {"gemm_gflop"}
    for record in records:
        assert record.keys() == named | RATES
        assert (record["workload"], record["requests"]) == ("uniform:5:0.05", 5)
        assert (record["prompt_tokens"], record["output_tokens"]) == (30, 15)
        assert len(record["walls_s"]) == len(record["cpus_s"]) == record["tries"] == 2
        assert record["same_answers_pct"] == 100.0
        assert record["peak_rss_gib"] > 0.05
        assert record["load_s"] > 0.0
    assert records[0]["variant"] == "max_batch_tokens=64"
    assert "gemmaray is faster" in printed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--checkpoint nowhere --workload uniform:two", "workload 'uniform:two'"),
        ("--checkpoint nowhere --workload uniform:2 --peers", "nowhere"),
    ],
)
def test_a_fault_of_the_user_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        offline.main(text.split())
    assert str(caught.value).startswith("offline.py: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_quiet_runs_count_if_there_are_enough() -> None:
    quiet = Quiet(repeat=2, max_other=0.1, max_tries=4)
    loud, soft = Timing(9.0, 4.0, 1.5), Timing(3.0, 2.9, 0.05)
    assert not quiet.enough([loud, soft])
    assert quiet.enough([loud, soft, soft])
    assert quiet.chosen([loud, soft, soft]) == [soft, soft]
    assert quiet.enough([loud] * 4)
    assert quiet.chosen([loud, loud, soft, loud]) == [soft, loud]


def test_a_run_is_timed_and_its_memory_seen() -> None:
    forget_peak_rss()
    before = peak_rss()
    length, timing = timed(lambda: len(b"x" * (64 << 20)))
    assert length == 64 << 20
    assert timing.wall_s > 0.0
    assert timing.cpu_s >= 0.0
    assert peak_rss() - before > 32 << 20
    forget_peak_rss()
    assert peak_rss() < before + (32 << 20)


def test_the_machine_is_named() -> None:
    described = machine()
    assert described["cores"] >= 1
    assert described["cpu"]
    assert described["memory_gib"] > 0.0
