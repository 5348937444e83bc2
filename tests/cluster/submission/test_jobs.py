"""What Ray's Jobs API says, in our words."""

import pytest
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobType

from cluster.submission.dashboard import find_dashboard, translated
from cluster.submission.errors import SubmissionError, TakenError, UnknownJobError
from cluster.submission.jobs import Jobs, Label, SubmittedJob

from .conftest import URL, FakeClient


def details(status: JobStatus, **more: object) -> JobDetails:
    values = {"type": JobType.SUBMISSION, "submission_id": "a-1", "entrypoint": "", **more}
    return JobDetails(status=status, **values)


def test_labels_come_back_as_they_were() -> None:
    label = Label(place="p", digest="d", attempt=3, output="s3://b/o", by="alice")
    assert Label.of(label.metadata()) == label
    assert Label.of(None) == Label.of({"job_name": "x"}) == Label()


@pytest.mark.parametrize(
    ("message", "error_type", "expected"),
    [
        (
            "failed with exit code 2\njoining the Ray cluster\ngemmaray: error: no such column\n",
            "JOB_ENTRYPOINT_COMMAND_ERROR",
            "error: no such column",
        ),
        (
            "failed\ngemmaray: error: bad input:\n  a.parquet: no column 'x'\n",
            "JOB_ENTRYPOINT_COMMAND_ERROR",
            "error: bad input: a.parquet: no column 'x'",
        ),
        (
            "failed with exit code 1\nTraceback\n  File\nModuleNotFoundError: No module\n",
            "JOB_ENTRYPOINT_COMMAND_ERROR",
            "ModuleNotFoundError: No module",
        ),
        (
            "runtime_env setup failed: no pip\nTraceback\n  a line\n",
            "RUNTIME_ENV_SETUP_FAILURE",
            "runtime_env setup failed: no pip",
        ),
        ("", None, ""),
    ],
)
def test_why_a_job_failed_is_one_line(message: str, error_type: str | None, expected: str) -> None:
    seen = SubmittedJob.of(details(JobStatus.FAILED, message=message, error_type=error_type))
    assert seen.message == expected
    assert seen.ran == (error_type != "RUNTIME_ENV_SETUP_FAILURE")


def test_a_job_that_runs_has_no_message() -> None:
    seen = SubmittedJob.of(details(JobStatus.RUNNING, message="Job is currently running."))
    assert (seen.state, seen.message, seen.has_ended) == ("running", "", False)


def test_times_are_in_seconds() -> None:
    seen = SubmittedJob.of(details(JobStatus.STOPPED, start_time=1500, end_time=2500))
    assert (seen.started, seen.ended, seen.has_ended) == (1.5, 2.5, True)


def test_jobs_of_others_are_not_listed_but_can_be_looked_at(jobs: Jobs, client: FakeClient) -> None:
    client.jobs = {"a-1": details(JobStatus.RUNNING)}
    assert jobs.ours() == []
    assert jobs.get("a-1").id == "a-1"


@pytest.mark.parametrize(
    ("raised", "kind", "expected"),
    [
        (
            AuthenticationError("Authentication required: Unauthorized\n\nlong"),
            SubmissionError,
            "wants a token: set RAY_AUTH_MODE=token",
        ),
        (
            AuthenticationError("Authentication failed: Forbidden\n\nlong"),
            SubmissionError,
            "refuses the token",
        ),
        (
            RuntimeError("Request failed with status code 404: Job a-1 does not exist."),
            UnknownJobError,
            "knows no job a-1",
        ),
        (RuntimeError("Job with submission_id a-1 already exists."), TakenError, "a-1 already"),
        (ConnectionError("Failed to connect to Ray"), SubmissionError, "can be reached at"),
        (requests.ConnectionError("no route"), SubmissionError, "can be reached at"),
        (
            requests.HTTPError("502 Bad Gateway", response=requests.Response()),
            SubmissionError,
            "does not answer as a Ray dashboard does: 502 Bad Gateway",
        ),
        (KeyError("ray_version"), SubmissionError, "does not answer as a Ray dashboard"),
        (
            RuntimeError("Request failed with status code 500: Traceback\n a\nOSError: full\n."),
            SubmissionError,
            "dashboard does: OSError: full",
        ),
        (ValueError(), SubmissionError, "ValueError"),
    ],
)
def test_what_ray_raises_is_one_line(raised: Exception, kind: type, expected: str) -> None:
    with pytest.raises(kind) as caught, translated(URL, "a-1"):
        raise raised
    assert expected in str(caught.value)
    assert URL in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (None, "which cluster"),
        ("", "which cluster"),
        ("ray://head:10001", "Ray Client's port"),
        ("ftp://head:8265", "no URL of a dashboard"),
        ("http://", "no URL of a dashboard"),
        ("http://head:port", "no URL of a dashboard"),
        ("http://a..b:80", "no Ray cluster can be reached"),
        ("http://127.0.0.1:1", "no Ray cluster can be reached at http://127.0.0.1:1: "),
    ],
)
def test_addresses_that_lead_nowhere(address: str | None, expected: str) -> None:
    with pytest.raises(SubmissionError, match=expected):
        find_dashboard(address)
