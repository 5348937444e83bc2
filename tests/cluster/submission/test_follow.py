"""Watching a job to its end, also where the connection does not last."""

import pytest

from cluster.submission import follow as following
from cluster.submission.errors import SubmissionError, UnknownJobError
from cluster.submission.follow import exit_status, follow, wait_for_end
from cluster.submission.jobs import Jobs, Label, SubmittedJob
from pipelines.errors import JobInterrupted

from .conftest import FakeClient


@pytest.fixture
def job(jobs: Jobs, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(following, "PAUSE_S", 0.0)
    client.submit_job(
        entrypoint="", submission_id="a-1", runtime_env={"working_dir": "."}, metadata={}
    )
    return "a-1"


def test_a_log_is_shown_once_though_the_connection_breaks(
    jobs: Jobs, client: FakeClient, job: str
) -> None:
    client.logs[job] = ["one\n", RuntimeError("cut"), "two\n", ConnectionError(), "three\n"]
    shown: list[str] = []
    assert follow(jobs, job, shown.append).state == "succeeded"
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_cluster_that_is_gone_is_given_up(
    jobs: Jobs, client: FakeClient, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOST_AFTER", 3)
    client.logs[job] = [OSError("gone")] * 3
    with pytest.raises(SubmissionError, match=f"lost {job}, which may go on: gone; gemmaray logs"):
        follow(jobs, job, print)


def test_ctrl_c_leaves_the_job_running(jobs: Jobs, client: FakeClient, job: str) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    client.logs[job] = ["one\n"]
    with pytest.raises(JobInterrupted, match=f"gemmaray logs {job} --follow --address http"):
        follow(jobs, job, interrupt)
    assert jobs.get(job).state == "running"
    assert not client.stopped


def test_an_unknown_job_is_said_at_once(jobs: Jobs) -> None:
    with pytest.raises(UnknownJobError, match="knows no job nobody"):
        follow(jobs, "nobody", print)


def ended(state: str, *, ran: bool = True, status: int | None = None) -> SubmittedJob:
    return SubmittedJob("a-1", state, Label(), 0.0, 1.0, ran, status, "why")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (ended("succeeded", status=0), 0),
        (ended("stopped"), 130),
        (ended("failed", status=2), 2),
        (ended("failed", status=-9), 1),
        (ended("failed"), 1),
    ],
)
def test_a_command_ends_as_the_job_did(job: SubmittedJob, expected: int) -> None:
    assert exit_status(job) == expected


def test_a_job_that_could_not_be_started_says_why() -> None:
    with pytest.raises(SubmissionError, match="a-1 could not be started: why"):
        exit_status(ended("failed", ran=False))


def test_waiting_has_an_end(jobs: Jobs, job: str) -> None:
    assert wait_for_end(jobs, job, 0.0).state == "running"
