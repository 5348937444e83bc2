import argparse
import json
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import offline
from benchmarks.measure import machine
from benchmarks.report import Record

RATES = {
    "requests_per_s",
    "prompt_tokens_per_s",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "benchmark",
    "gemm_gflops",
    "ceiling_pct",
    "spread_pct",
}


@pytest.mark.slow
def test_offline_compares_the_engines(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "run.jsonl"
    with pytest.raises(SystemExit, match=r"offline\.py: gemmaray bad: .*nosuch"):
        offline.main(
            f"--checkpoint {checkpoint} --workload uniform:5:0.05 --dtype float32 --threads 1 "
            "--turns 2 --max-other inf --no-ceiling --ours small:max_batch_tokens=64 bad:nosuch=1 "
            f"--peers transformers:batch=2 vllm --peers-home {tmp_path} --out {out}".split()
        )
    printed = capsys.readouterr()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert records == [json.loads(line) for line in printed.out.splitlines()]
    named_so = [("gemmaray", "small"), ("transformers", "batch=2")]
    assert [(record["engine"], record["variant"]) for record in records] == named_so
    named = {field.name for field in fields(Record)} - {"gemm_gflop"}
    for record in records:
        assert record.keys() == named | RATES
        assert (record["workload"], record["requests"]) == ("uniform:5:0.05", 5)
        assert (record["prompt_tokens"], record["output_tokens"]) == (30, 15)
        assert len(record["walls_s"]) == len(record["cpus_s"]) == record["tries"] == 2
        assert record["same_answers_pct"] == 100.0
        assert record["peak_rss_gib"] > 0.05
        assert record["load_s"] > 0.0
        assert record["start_s"] > record["load_s"]
        assert record["precision"] == "float32"
        assert record["ceiling_pct"] is None
    assert [record["settings"] for record in records] == [
        "max_batch_tokens=64",
        "static b2 eager",
    ]
    assert "gemmaray is faster" in printed.err
    # What fails or is missing leaves the others their figures.
    assert printed.err.count("left out from here on: gemmaray bad") == 1
    assert f"left out: vllm is not installed ({tmp_path}/vllm/bin/python): run" in printed.err


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


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("vllm", ("vllm", "", {})),
        ("transformers:batch=64", ("transformers", "batch=64", {"batch": 64})),
        (
            "llama.cpp:q8:weights=q8_0,ubatch=9",
            ("llama.cpp", "q8", {"weights": "q8_0", "ubatch": 9}),
        ),
    ],
)
def test_a_peer_is_named_with_its_settings(text: str, read: object) -> None:
    assert offline.peer(text) == read


@pytest.mark.parametrize("text", ["sglang", "vllm:name:key"])
def test_a_faulty_peer_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        offline.peer(text)


def test_the_machine_is_named() -> None:
    described = machine()
    assert described["cores"] >= 1
    assert described["cpu"]
    assert described["memory_gib"] > 0.0
