"""The commands that only read: what they print, and how they end."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster import job_status
from cluster.options import UsageError
from cluster.preflight_text import parse_size
from pipelines.s3 import S3Settings
from pipelines.status import Status
from tests.pipelines.data import CAUSAL_LM, write
from tests.pipelines.outputs import Made, make_output
from tests.pipelines.test_verify import unlink

from .conftest import Command


def test_none_of_them_brings_ray_along() -> None:
    modules = "cluster.preflight_text, cluster.job_status, cluster.verifying, cluster.report_page"
    code = f"import {modules}, sys; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "ray" not in finished.stdout.split()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_output(tmp_path)


def test_verify_says_what_is_proven(gemmaray: Command, made: Made) -> None:
    finished = gemmaray("verify", made.url)
    assert finished.status == 0
    assert finished.err == ""
    assert finished.out == (
        "proven: 70 rows in 7 parts, each there exactly once; 6 kept columns equal to the "
        "input's in 70 rows; 6 rows with an error\n"
    )
    values = json.loads(gemmaray("verify", made.url, "--json").out)
    assert (values["proven"], values["rows"], values["findings"]) == (True, 70, [])


def test_verify_names_the_first_faults_and_ends_with_1(gemmaray: Command, made: Made) -> None:
    unlink(made, made.units[0])
    finished = gemmaray("verify", made.url)
    assert finished.status == 1
    first, last = finished.out.splitlines()
    assert first == f"{made.plan.part_name(made.units[0])}: is missing"
    assert last.startswith("NOT proven, 1 fault: 54 of 70 rows in 6 of 7 parts; ")
    values = json.loads(gemmaray("verify", made.url, "--json").out)
    assert values["findings"] == [{"where": first.partition(":")[0], "what": "is missing"}]


def test_verify_without_the_input(gemmaray: Command, made: Made) -> None:
    (made.inputs / "f0.parquet").unlink()
    finished = gemmaray("verify", made.url)
    assert finished.status == 2
    assert "f0.parquet" in finished.out
    assert "can't be proven: 70 rows in 7 parts" in finished.out
    alone = gemmaray("verify", made.url, "--no-input")
    assert alone.status == 0
    assert "not compared (--no-input)" in alone.out


def test_a_great_many_faults_are_summed_up(gemmaray: Command, tmp_path: Path) -> None:
    made = make_output(tmp_path, rows=(60,), unit_rows=2)
    for unit in made.units[:25]:
        unlink(made, unit)
    lines = gemmaray("verify", made.url).out.splitlines()
    assert len(lines) == 20 + 2
    assert lines[20] == "and 5 findings more"


@pytest.mark.parametrize("command", ["verify", "status", "report"])
def test_a_folder_without_a_job_is_a_user_error(
    gemmaray: Command, tmp_path: Path, command: str
) -> None:
    finished = gemmaray(command, str(tmp_path))
    assert (finished.status, finished.out) == (2, "")
    assert finished.err.startswith("gemmaray: error: ")
    assert finished.err.count("\n") == 1


def test_status_says_how_far_it_is(gemmaray: Command, tmp_path: Path) -> None:
    made = make_output(tmp_path, parts=3)
    out = gemmaray("status", made.url).out
    assert "stopped, or its units take long" in out
    assert "3 of 7\n" in out
    assert "48 of 70 (69 %)" in out
    assert "errors    4 rows (8.3 %)" in out
    values = json.loads(gemmaray("status", made.url, "--json").out)
    assert (values["state"], values["parts"], values["rows"]) == ("stopped", 3, 48)


def test_status_watches_until_the_job_is_complete(
    gemmaray: Command, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter(["running", "running", "complete"])
    real = job_status.read_status

    def read(url: str, s3: S3Settings, *, full: bool) -> Status:
        status = real(url, s3, full=full)
        return Status(**{**_fields(status), "state": next(states)})

    monkeypatch.setattr(job_status, "read_status", read)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    lines = gemmaray("status", made.url, "--watch", "--json").out.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["running", "running", "complete"]


def test_status_is_left_with_ctrl_c(
    gemmaray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        sleep(seconds)  # a replica of another test may still report

    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", interrupt)
    made = make_output(tmp_path, parts=1)
    assert gemmaray("status", made.url, "--watch").status == 0


def test_plan_looks_at_a_job_and_writes_nothing(gemmaray: Command, tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", {"text": [f"foo {i}" for i in range(40)] + [""]})
    job = tmp_path / "job.yaml"
    job.write_text(
        f"input: {tmp_path}/in.parquet\noutput: {tmp_path}/out\nmodel: {CAUSAL_LM}\n"
        "prompt_column: text\ntasks: [{generate: {max_tokens: 8}}]\n"
    )
    finished = gemmaray("plan", str(job), "--gpus", "0")
    assert finished.status == 0, finished.err
    for part in (
        "1 file, 41 rows", "40 good", "1 bad, 2.4 %: about 1 row of the job",
        "column 'text' is empty",
        "parameters, bfloat16", "sequences of 8,192 tokens in flight", "ROUGH BOUND",
        "at most 320 out",
    ):  # fmt: skip
        assert part in finished.out, part
    values = json.loads(
        gemmaray("plan", str(job), "--gpus", "2", "--memory", "16GiB", "--json").out
    )
    assert (values["input"]["rows"], values["sample"]["good"]) == (41, 40)
    assert values["placement"]["most"] == 2
    assert values["memory"] == 16 << 30
    assert values["kv_cache"]["pages"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "job.yaml"]


def test_plan_names_all_faults_in_one_message(gemmaray: Command, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"input: {tmp_path}/nowhere\noutput: {tmp_path}/out\nmodel: {tmp_path}/no-model\n"
        "prompt_column: text\ntasks: [classify]\n"
    )
    finished = gemmaray("plan", str(job))
    assert finished.status == 2
    assert "2 things are wrong with this job" in finished.err
    assert "nowhere" in finished.err
    assert "no-model" in finished.err


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GiB", 80 << 30), ("24 GB", 24 * 10**9), ("1.5g", 1_500_000_000), ("512", 512)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "12 apples", "-3", "0", "1i", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


def _fields(status: Status) -> dict[str, object]:
    return {name: getattr(status, name) for name in Status.__dataclass_fields__}
