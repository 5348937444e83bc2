import json
from pathlib import Path

import pytest

from benchmarks import bench, offline, whole_job
from benchmarks.bench import PARTS, arguments, command, results_file


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_a_command_that_is_understood(part: str, tmp_path: Path) -> None:
    script, *argv = command(part, tmp_path, arguments([]), tmp_path / "out.jsonl")[1:]
    module = {"offline.py": offline, "whole_job.py": whole_job}[Path(script).name]
    args = module.arguments(argv)
    assert [offline.variant(text)[0] for text in args.ours] == ["bf16", "int8"]
    assert {name for name, *_ in args.peers} == {"transformers", "vllm", "llama.cpp"}
    assert args.out == tmp_path / "out.jsonl"


def test_results_are_named_by_hardware_and_date() -> None:
    path = results_file({"cpu": "AMD EPYC (Zen 4)", "cores": 2}, "2026-01-31")
    assert path.name == "amd-epyc-zen-4-2-cores-2026-01-31.jsonl"


def test_a_part_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["9b"])
    assert "there is no part '9b', only mini, 2b, job" in capsys.readouterr().err


@pytest.mark.slow
def test_a_part_that_fails_does_not_end_the_others(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("mini", "2b"):
        (tmp_path / name).symlink_to(checkpoint)
    quick = ("offline.py", "--no-ceiling", "--peers", "--workload")
    parts = {"2b": (*quick, "nosuch:1"), "mini": (*quick, "uniform:2:0.05")}
    monkeypatch.setattr(bench, "PARTS", parts)
    out = tmp_path / "out.jsonl"
    with pytest.raises(SystemExit, match=r"bench\.py: failed: 2b"):
        bench.main(
            f"--checkpoints {tmp_path} --out {out} --turns 1 --max-other inf --threads 1 "
            "--ours plain".split()
        )
    (line,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (line["engine"], line["variant"]) == ("gemmaray", "plain")
    assert "| uniform:2:0.05 | gemmaray" in capfd.readouterr().out
