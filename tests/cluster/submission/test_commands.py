"""The commands about submitted jobs, over a cluster that is not there."""

import json
from pathlib import Path

import pytest

from tests.cluster.conftest import Command

from .conftest import FakeClient

Named = list[str | None]


def test_submit_prints_the_id_and_how_to_go_on(
    gemmaray: Command, reached: Named, client: FakeClient, job_file: Path
) -> None:
    finished = gemmaray("submit", str(job_file), "--address", "http://head:8265", "--in-image")
    (job,) = client.jobs
    assert (finished.status, finished.out) == (0, f"{job}\n")
    assert f"gemmaray logs {job} --follow --address http://127.0.0.1:28265" in finished.err
    assert reached == ["http://head:8265"]


def test_submit_again_joins_the_job_that_runs(
    gemmaray: Command, reached: Named, client: FakeClient, job_file: Path
) -> None:
    first = gemmaray("submit", str(job_file), "--in-image", "--quiet")
    assert first.err == ""
    second = gemmaray("submit", str(job_file), "--in-image")
    assert second.out == first.out
    assert second.err.startswith("this job is running there already; it was not started again\n")


@pytest.mark.parametrize(
    ("attempts", "ordinal"), [(1, "2nd"), (2, "3rd"), (3, "4th"), (10, "11th")]
)
def test_submit_after_the_end_says_that_it_resumes(
    gemmaray: Command,
    reached: Named,
    client: FakeClient,
    job_file: Path,
    attempts: int,
    ordinal: str,
) -> None:
    for _ in range(attempts):
        job = gemmaray("submit", str(job_file), "--in-image").out.strip()
        client.end(job, "FAILED")
    resumed = gemmaray("submit", str(job_file), "--in-image")
    assert resumed.err.startswith(f"submitted for the {ordinal} time: it goes on where it was\n")


def test_follow_ends_as_the_job_does(
    gemmaray: Command, reached: Named, client: FakeClient, job_file: Path
) -> None:
    job = gemmaray("submit", str(job_file), "--in-image").out.strip()
    client.logs[job] = ["gemmaray: error: no such column\n"]
    client.end(job, "FAILED", driver_exit_code=2)
    finished = gemmaray("logs", job, "--follow")
    assert (finished.status, finished.out) == (2, "gemmaray: error: no such column\n")
    assert finished.err == f"{job}: failed\n"


def test_a_missing_compiler_is_mentioned(
    gemmaray: Command, reached: Named, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.submission.submission.has_kernels", lambda _: False)
    finished = gemmaray("submit", str(job_file))
    assert "has no native kernels" in finished.err


def test_jobs_are_a_table(
    gemmaray: Command, reached: Named, client: FakeClient, job_file: Path
) -> None:
    assert gemmaray("jobs").out == "no job was submitted to this cluster\n"
    job = gemmaray("submit", str(job_file), "--in-image").out.strip()
    message = "failed\ngemmaray: error: no such column"
    client.end(job, "FAILED", message=message, error_type="JOB_ENTRYPOINT_COMMAND_ERROR")
    heading, row = gemmaray("jobs").out.splitlines()
    assert heading.split() == ["id", "status", "started", "by", "output", "message"]
    assert row.startswith(f"{job}  failed  ")
    assert row.endswith("  s3://bucket/out  error: no such column")
    (entry,) = json.loads(gemmaray("jobs", "--json").out)
    assert (entry["id"], entry["status"], entry["started"]) == (job, "failed", 1.0)
    assert (entry["output"], entry["attempt"]) == ("s3://bucket/out", 1)


def test_logs_are_printed_as_they_are(
    gemmaray: Command, reached: Named, client: FakeClient, job_file: Path
) -> None:
    job = gemmaray("submit", str(job_file), "--in-image").out.strip()
    client.logs[job] = ["one\n", "two"]
    assert gemmaray("logs", job).out == "one\ntwo"


def test_cancel_waits_and_says_how_to_resume(
    gemmaray: Command, reached: Named, client: FakeClient, job_file: Path
) -> None:
    job = gemmaray("submit", str(job_file), "--in-image").out.strip()
    finished = gemmaray("cancel", job)
    assert finished.out == f"{job}: stopped; submit its job file again to resume it\n"
    assert gemmaray("cancel", job).out == f"{job} has ended already: stopped\n"
    assert client.stopped == [job]


def test_status_of_an_id_is_that_of_the_job(
    gemmaray: Command, reached: Named, client: FakeClient, job_file: Path
) -> None:
    job = gemmaray("submit", str(job_file), "--in-image").out.strip()
    client.logs[job] = ["joining the Ray cluster\n", "10/20 rows | ETA 3 s\n"]
    finished = gemmaray("status", job, "--address", "http://head:8265")
    lines = dict(line.split(maxsplit=1) for line in finished.out.splitlines())
    assert lines["job"] == f"{job}: running"
    assert lines["output"] == "s3://bucket/out"
    assert lines["submitted"].startswith("the first time")
    assert lines["progress"] == "10/20 rows | ETA 3 s"
    client.end(job, "SUCCEEDED")
    values = json.loads(gemmaray("status", job, "--address", "x", "--json", "--watch").out)
    assert (values["status"], values["progress"]) == ("succeeded", "10/20 rows | ETA 3 s")
    assert gemmaray("status", job, "--address", "x", "--full").status == 2


def test_status_of_a_folder_is_that_of_the_output(
    gemmaray: Command, reached: Named, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "out holds no job" in gemmaray("status", "out").err
    assert reached == []


@pytest.mark.parametrize("command", ["logs", "cancel"])
def test_an_unknown_job_is_one_line(gemmaray: Command, reached: Named, command: str) -> None:
    finished = gemmaray(command, "nobody")
    assert finished.status == 2
    assert finished.err.count("\n") == 1
    assert "knows no job nobody" in finished.err


def test_ray_s_own_variables_name_the_cluster(
    gemmaray: Command, reached: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    gemmaray("jobs")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    gemmaray("jobs")
    gemmaray("jobs", "--address", "http://other:8265")
    assert reached == ["head:6379", "http://head:8265", "http://other:8265"]
