"""Which job a job file is on a cluster, what goes along, and what can't go."""

from pathlib import Path

import pytest

from cluster.submission.errors import SubmissionError
from cluster.submission.jobs import Jobs
from cluster.submission.submission import Submission, submit

from .conftest import JOB, FakeClient


@pytest.fixture
def submission(job_file: Path) -> Submission:
    return Submission.read(job_file)


def test_the_job_file_and_a_wheel_travel(
    jobs: Jobs, client: FakeClient, submission: Submission
) -> None:
    sent = submit(jobs, submission, in_image=False)
    assert sent.job.startswith("my-tickets-")
    assert sent.job.endswith("-1")
    job_file, wheel = client.packages[sent.job]
    assert job_file == "job.yaml"
    assert wheel.startswith("gemmaray-")
    assert wheel.endswith("-py3-none-any.whl")


def test_nothing_but_the_job_file_travels_to_an_image(
    jobs: Jobs, client: FakeClient, submission: Submission
) -> None:
    sent = submit(jobs, submission, in_image=True)
    assert client.packages[sent.job] == ["job.yaml"]
    assert sent.has_kernels is None


def test_the_command_shows_nothing_of_the_job(
    jobs: Jobs, client: FakeClient, submission: Submission
) -> None:
    sent = submit(jobs, submission, in_image=True)
    details = client.jobs[sent.job]
    assert details.entrypoint == "exec python -m cluster run job.yaml --address auto"
    assert details.metadata is not None
    assert "body" not in " ".join(details.metadata.values())


def test_a_driver_gets_time_to_end(jobs: Jobs, client: FakeClient, submission: Submission) -> None:
    sent = submit(jobs, submission, in_image=True)
    environment = client.jobs[sent.job].runtime_env
    assert environment is not None
    assert int(environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 30


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_job_that_has_ended_is_started_again(
    jobs: Jobs, client: FakeClient, submission: Submission, status: str
) -> None:
    first = submit(jobs, submission, in_image=True)
    client.end(first.job, status)
    second = submit(jobs, submission, in_image=True)
    assert (second.attempt, second.is_new) == (2, True)
    assert second.job == first.job.removesuffix("1") + "2"


def test_a_job_that_runs_is_not_started_twice(
    jobs: Jobs, client: FakeClient, submission: Submission
) -> None:
    first = submit(jobs, submission, in_image=True)
    second = submit(jobs, submission, in_image=True)
    assert (second.job, second.is_new) == (first.job, False)
    assert len(client.jobs) == 1


def test_another_name_is_the_same_job(
    jobs: Jobs, client: FakeClient, submission: Submission, job_file: Path
) -> None:
    first = submit(jobs, submission, in_image=True)
    renamed = Submission.read(job_file, "nightly")
    assert submit(jobs, renamed, in_image=True).job == first.job
    client.end(first.job, "FAILED")
    assert submit(jobs, renamed, in_image=True).job == f"nightly-{renamed.place[:8]}-2"


def test_another_job_to_the_same_output_is_refused_while_one_runs(
    jobs: Jobs, client: FakeClient, submission: Submission, job_file: Path
) -> None:
    first = submit(jobs, submission, in_image=True)
    job_file.write_text(JOB.format(output="out/", tokens=16))
    changed = Submission.read(job_file)
    with pytest.raises(SubmissionError, match=f"{first.job} is writing to s3://bucket/out,"):
        submit(jobs, changed, in_image=True)
    client.end(first.job, "STOPPED")
    assert submit(jobs, changed, in_image=True).attempt == 2


def test_another_output_is_another_job(jobs: Jobs, submission: Submission, job_file: Path) -> None:
    first = submit(jobs, submission, in_image=True)
    job_file.write_text(JOB.format(output="other", tokens=8))
    other = submit(jobs, Submission.read(job_file), in_image=True)
    assert other.attempt == 1
    assert other.job != first.job


def test_two_who_submit_at_once_start_one_job(
    jobs: Jobs, client: FakeClient, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = submit(jobs, submission, in_image=True)
    seen = iter([[], client.list_jobs()])
    monkeypatch.setattr(client, "list_jobs", lambda: next(seen))
    assert submit(jobs, submission, in_image=True).job == other.job


def test_ids_of_others_are_passed_over(
    jobs: Jobs, client: FakeClient, submission: Submission
) -> None:
    taken = f"my-tickets-{submission.place[:8]}-1"
    client.submit_job(
        entrypoint="", submission_id=taken, runtime_env={"working_dir": "."}, metadata={}
    )
    assert submit(jobs, submission, in_image=True).job.endswith("-2")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("input", "data/in.parquet"),
        ("input", "file://data/in.parquet"),
        ("input", "~/in.parquet"),
        ("output", "out"),
        ("model", "./gemma"),
        ("model", "{here}"),
    ],
)
def test_what_only_this_machine_has_is_refused(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.chdir(job_file.parent)
    (job_file.parent / "google" / "gemma").mkdir(parents=True)
    (job_file.parent / "gemma").mkdir()
    value = value.format(here="google/gemma")
    lines = [line for line in job_file.read_text().splitlines() if not line.startswith(setting)]
    job_file.write_text("\n".join([*lines, f"{setting}: {value}"]))
    with pytest.raises(SubmissionError) as caught:
        Submission.read(job_file)
    message = str(caught.value)
    assert message.startswith(f"{job_file}: {setting}: {value} is ")
    assert message.count("\n") == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("input", "/data/in.parquet"),
        ("input", "file:///data/in.parquet"),
        ("output", "/data/out"),
        ("model", "s3://bucket/model"),
        ("model", "/models/gemma"),
        ("model", "google/gemma-2-9b"),
    ],
)
def test_what_means_the_same_everywhere_may_go(job_file: Path, setting: str, value: str) -> None:
    lines = [line for line in job_file.read_text().splitlines() if not line.startswith(setting)]
    job_file.write_text("\n".join([*lines, f"{setting}: {value}"]))
    Submission.read(job_file)


@pytest.mark.parametrize(
    ("name", "expected"), [("ünïq job!", "n-q-job"), ("...", "job"), ("a" * 99, "a" * 40)]
)
def test_names_fit_into_urls_and_file_names(job_file: Path, name: str, expected: str) -> None:
    assert Submission.read(job_file, name).name == expected
