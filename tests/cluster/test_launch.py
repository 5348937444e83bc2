"""What the command does with a job's outcome. The job itself is tested in tests/pipelines."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipelines
from cluster import launch
from pipelines import JobError, JobInterrupted, JobReport, JobSpec
from pipelines.s3 import S3Settings

from .conftest import Command
from .test_display import report

Outcome = JobReport | BaseException
Finish = Callable[[Outcome], None]


@pytest.fixture
def finish_with(monkeypatch: pytest.MonkeyPatch) -> Finish:
    """Make run_job end in this way, without a cluster."""

    @contextmanager
    def no_cluster(address: str | None) -> Iterator[None]:
        yield

    monkeypatch.setattr(launch, "connected", no_cluster)

    def finish(outcome: Outcome) -> None:
        def run_job(spec: JobSpec | None, *, on_progress: Callable[[Any], None]) -> JobReport:
            if isinstance(outcome, BaseException):
                raise outcome
            on_progress(outcome)
            return outcome

        def retry_failed(
            output: str, s3: S3Settings, *, everything: bool, on_progress: Any
        ) -> JobReport:
            assert (output, s3, everything) == ("s3://b/out", S3Settings(), True)
            return run_job(None, on_progress=on_progress)

        monkeypatch.setattr(pipelines, "run_job", run_job, raising=False)
        monkeypatch.setattr(pipelines, "retry_failed", retry_failed, raising=False)

    return finish


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text("{input: a, output: b, model: m, prompt_column: c, tasks: [classify]}")
    return str(path)


def test_a_job_ends_with_its_summary(gemmaray: Command, finish_with: Finish, job_file: str) -> None:
    finish_with(report())
    finished = gemmaray("run", job_file)
    assert finished.status == 0
    assert finished.out.startswith("rows     1,200 rows, 1 error\n")
    assert finished.err.startswith("starting Ray on this machine\n1,200/1,200 rows | ")


def test_a_retry_ends_with_its_summary(gemmaray: Command, finish_with: Finish) -> None:
    finish_with(replace(report(), rows_retried=3, rows_mended=2))
    finished = gemmaray("retry-failed", "s3://b/out", "--all")
    assert finished.status == 0
    assert "\nretried  3 rows; 2 rows good now\n" in finished.out
    assert gemmaray("retry-failed", "s3://b/out", "--all", "--quiet").out == ""


def test_sigterm_ends_a_job_like_ctrl_c(
    gemmaray: Command, finish_with: Finish, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_job(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    finish_with(report())
    monkeypatch.setattr(pipelines, "run_job", run_job)
    before = signal.getsignal(signal.SIGTERM)
    finished = gemmaray("run", job_file)
    assert finished.status == 130
    assert finished.err.splitlines()[-1].startswith("gemmaray: interrupted: run ")
    assert signal.getsignal(signal.SIGTERM) is before


def test_joining_a_cluster_is_said(gemmaray: Command, finish_with: Finish, job_file: str) -> None:
    finish_with(report())
    assert gemmaray("run", job_file, "--address", "h:1").err.startswith("joining the Ray cluster")


def test_quiet_says_nothing(gemmaray: Command, finish_with: Finish, job_file: str) -> None:
    finish_with(report())
    assert gemmaray("run", job_file, "--quiet") == (0, "", "")


@pytest.mark.parametrize(("failed", "status"), [(0, 0), (1199, 0), (1200, 1)])
def test_only_a_job_without_any_good_row_has_failed(
    gemmaray: Command, finish_with: Finish, job_file: str, failed: int, status: int
) -> None:
    finish_with(report(rows_failed=failed))
    assert gemmaray("run", job_file).status == status


def test_a_job_without_rows_is_no_failure(
    gemmaray: Command, finish_with: Finish, job_file: str
) -> None:
    finish_with(replace(report(), rows_total=0, rows_done=0, rows_failed=0))
    assert gemmaray("run", job_file).status == 0


def test_a_job_that_cannot_run_is_one_message(
    gemmaray: Command, finish_with: Finish, job_file: str
) -> None:
    finish_with(JobError("no such column"))
    finished = gemmaray("run", job_file)
    assert finished.status == 2
    assert finished.err.splitlines()[-1] == "gemmaray: error: no such column"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), JobInterrupted("interrupted: run it again")]
)
def test_ctrl_c_says_how_to_go_on(
    gemmaray: Command, finish_with: Finish, job_file: str, error: BaseException
) -> None:
    finish_with(error)
    finished = gemmaray("run", job_file)
    assert finished.status == 130
    assert finished.err.splitlines()[-1].startswith("gemmaray: interrupted: run ")


def test_our_own_mistakes_keep_their_traceback(
    finish_with: Finish, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_with(ZeroDivisionError())
    monkeypatch.setattr("sys.argv", ["gemmaray", "run", job_file])
    with pytest.raises(ZeroDivisionError):
        launch.launch(JobSpec.from_yaml(job_file))
