import json

import pytest

from benchmarks import gpu_check


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_cpu_does_what_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu_check.main(
            ["--device", "cpu", "--here", "--only", "versions", "fp8", "reference", "flash"]
        )
    assert caught.value.code == 0
    results = {line["check"]: line["status"] for line in lines(capsys)}
    assert results == {"versions": "ok", "fp8": "ok", "reference": "ok", "flash": "skipped"}


def test_a_failure_does_not_end_the_checks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu_check.CHECKS, "collectives", "no_such_module")
    with pytest.raises(SystemExit) as caught:
        gpu_check.main(["--device", "cpu", "--here", "--only", "collectives", "cuda_graph"])
    assert caught.value.code == 1
    first, second = lines(capsys)
    assert (first["status"], second["status"]) == ("failed", "skipped")
    assert "no_such_module" in str(first["reason"])


def test_a_check_that_hangs_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--device", "cpu", "--only", "versions", "--timeout", "0.01"])
    (result,) = lines(capsys)
    assert (result["status"], result["reason"]) == ("failed", "not done in 0.01 s")


@pytest.mark.slow
def test_each_check_has_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--device", "cpu", "--only", "versions"])
    (result,) = lines(capsys)
    assert result["status"] == "ok"
    assert "torch" in str(result["packages"])
