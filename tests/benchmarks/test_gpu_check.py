import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.checks.table import rows, text


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in out if line.startswith("{")]


def check(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        gpu_check.main(["--device", "cpu", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_cpu_does_what_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["versions", "flash", "fp8", "decoded", "overlap", "decode", "prefill", "generate"]
    assert check("--here", "--only", *names) == 0
    results = {line["check"]: line for line in lines(capsys)}
    assert list(results) == names
    assert results.pop("flash")["status"] == "skipped"
    table = {row.check: row.value for row in rows([results["overlap"]])}
    assert table["overlap"].startswith("same answers, ")
    assert {result["status"] for result in results.values()} == {"ok"}
    assert set(results["decode"]["as chosen"]) == {"attention", "1", "4"}
    assert "needs a CUDA device" in results["decode"]["fp8"]["refused"]


def test_a_failure_does_not_end_the_checks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu_check.CHECKS, "flash", "no_such_module")
    assert check("--here", "--only", "flash", "cuda_graph") == 1
    first, second = lines(capsys)
    assert (first["status"], second["status"]) == ("failed", "skipped")
    assert "no_such_module" in first["reason"]


def test_a_check_that_hangs_is_given_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check("--only", "versions", "--timeout", "0.01", "--out", str(tmp_path)) == 1
    (result,) = lines(capsys)
    assert (result["status"], result["reason"]) == ("failed", "not done in 0.01 s")
    kept = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))
    assert kept["checks"] == [result]


def test_nothing_starts_when_the_budget_is_spent(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--only", "versions", "decode", "--budget-s", "0") == 0
    assert {line["reason"] for line in lines(capsys)} == {"the time budget is spent"}


def test_missing_packages_are_named_and_what_needs_them_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(job: gpu_check.Job, _device: str, _timeout_s: float) -> dict[str, Any]:
        packages = {"torch": "2", "triton": None, "transformers": "5"}
        versions = (
            {"packages": packages, "missing": ["pydantic"]} if job.check == "versions" else {}
        )
        return {"status": "ok", **versions}

    monkeypatch.setattr(gpu_check, "check_apart", apart)
    assert check("--only", "versions", "collectives", "parity") == 0
    versions, parity, collectives = lines(capsys)
    assert versions["status"] == collectives["status"] == "ok"
    assert (parity["status"], parity["reason"]) == ("skipped", "install pydantic")


def test_steps_of_all_shapes_come_before_whole_workloads() -> None:
    args = gpu_check.arguments(["--only", "decode", "transformers", "generate", "prefill"])
    order = [f"{job.check} {job.shape}" for job in gpu_check.jobs(args)]
    steps = ["decode 2b", "prefill 2b", "decode 9b", "prefill 9b"]
    works = ["generate 2b", "transformers 2b", "generate 9b", "transformers 9b"]
    assert order == steps + works


def test_the_table_sets_figures_beside_their_aims() -> None:
    step = {"ms": 5.0, "tokens_per_s": 51200, "share": 0.713}
    rates = {"output_tokens_per_s": 10.0, "total_tokens_per_s": 90.0, "tflops": 1.0}
    shaped = {"shape": "2b", "status": "ok", "seconds": 1.0}
    table = text(
        rows(
            [
                {"check": "flex", **shaped, "head_dim 128": 0.002, "head_dim 256": 0.003},
                {"check": "flash", **shaped, "status": "skipped", "reason": "no\nflash-attn"},
                {"check": "decode", **shaped, "as chosen": {"attention": "flex", "256": step}},
                {"check": "generate", **shaped, "random:256": rates},
                {
                    "check": "transformers",
                    **shaped,
                    "random:64": {**rates, "total_tokens_per_s": 20.0},
                },
            ]
        )
    ).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[2] == ["flex", "", "ok, worst error 0.003", ""]
    assert cells[3] == ["flash", "", "SKIPPED: no flash-attn", ""]
    assert cells[4] == [
        "decode 2b",
        "as chosen, 256 at once",
        "5 ms, 51200 tok/s, 71% of copy",
        "70%",
    ]
    assert cells[-1] == ["ratio 2b", "generate over transformers, random", "4.50x", "4x"]


@pytest.mark.slow
def test_each_check_has_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--only", "versions") == 0
    (result,) = lines(capsys)
    assert result["status"] == "ok"
    assert "torch" in result["packages"]
