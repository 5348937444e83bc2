"""A job file on its way to a cluster: what it is called there, and what goes along."""

import getpass
import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.errors import JobError
from pipelines.job import JobSpec
from pipelines.locations import parse_location

from .errors import SubmissionError, TakenError
from .jobs import Jobs, Label, SubmittedJob
from .wheel import build_wheel, has_kernels

JOB_FILE = "job.yaml"
# `exec`, so that the shell does not stand between Ray's SIGTERM and our driver.
COMMAND = f"exec python -m cluster run {JOB_FILE} --address auto"
# Ray kills a driver that takes longer than this to end, after 3 s if it is told nothing.
STOP_WAIT_S = 60
NAME_LENGTH = 40
DIGEST_LENGTH = 8
MOST_RACES = 20


@dataclass(frozen=True)
class Submission:
    """A job file that means the same on every machine.

    Attributes:
        name: the beginning of its ids.
        content: of the file.
        spec: what it says.
    """

    name: str
    content: bytes
    spec: JobSpec

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> "Submission":
        """Read a job file.

        Args:
            path: the file.
            name: instead of the file's own.

        Raises:
            GemmarayError: it can't be read or used, or names what only this machine has.
        """
        spec = JobSpec.from_yaml(path)
        for setting, value in _places(spec):
            if why := _only_here(setting, value):
                raise SubmissionError(
                    f"{path}: {setting}: {value} {why}; name what all nodes of the cluster see: "
                    "an absolute path, or s3://..."
                )
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or path.stem).strip("-.")
        try:
            return cls((plain or "job")[:NAME_LENGTH], path.read_bytes(), spec)
        except OSError as error:
            raise JobError(f"{path} can't be read: {error}") from None

    @property
    def output(self) -> str:
        """Where it writes."""
        return str(parse_location(self.spec.output))

    @cached_property
    def place(self) -> str:
        """Tell its output from others: what writes there is this job, or has to be refused."""
        return _digest(f"{self.spec.s3.endpoint or ''} {self.output}")

    @cached_property
    def digest(self) -> str:
        """Tell its content from others."""
        return _digest(json.dumps(self.spec.model_dump(mode="json"), sort_keys=True))

    def label(self, attempt: int) -> Label:
        """Write what the cluster keeps with it."""
        return Label(
            place=self.place, digest=self.digest, attempt=attempt, output=self.output, by=_user()
        )


@dataclass(frozen=True, slots=True)
class Submitted:
    """What came of a submission.

    Attributes:
        job: its id on the cluster.
        is_new: False if it was running already.
        attempt: how often it was submitted, now included.
        has_kernels: whether native kernels went along; None if no code did.
    """

    job: str
    is_new: bool
    attempt: int
    has_kernels: bool | None = None


def submit(jobs: Jobs, submission: Submission, *, in_image: bool) -> Submitted:
    """Start a job on a cluster, again if it has ended, or find it running there.

    A job is known by its output. Ray starts what it is given once, under an id of its own, so ids
    count the attempts; the job itself goes on where the last one ended.

    Args:
        jobs: of the cluster.
        submission: the job.
        in_image: the cluster has our packages, so none are sent.

    Raises:
        SubmissionError: another job is writing to its output, or it can't be started.
    """
    least = 1
    for _ in range(MOST_RACES):
        earlier = [job for job in jobs.ours() if job.label.place == submission.place]
        running = next((job for job in earlier if not job.has_ended), None)
        if running:
            return _joined(running, submission)
        attempt = max([least, *(job.label.attempt + 1 for job in earlier)])
        try:
            return _start(jobs, submission, attempt, in_image=in_image)
        except TakenError:  # by who submitted it at the same time, or by a job of another kind
            least = attempt + 1
    raise SubmissionError(
        f"{jobs.url} has jobs of all ids that begin with {submission.name}: give another --name"
    )


def _joined(running: SubmittedJob, submission: Submission) -> Submitted:
    if running.label.digest != submission.digest:
        raise SubmissionError(
            f"{running.id} is writing to {submission.output}, and its job file is not this one: "
            "wait for its end, or gemmaray cancel it first"
        )
    return Submitted(running.id, is_new=False, attempt=running.label.attempt)


def _start(jobs: Jobs, submission: Submission, attempt: int, *, in_image: bool) -> Submitted:
    job = f"{submission.name}-{submission.place[:DIGEST_LENGTH]}-{attempt}"
    environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}
    kernels = None
    with tempfile.TemporaryDirectory(prefix="gemmaray-") as scratch:
        folder = Path(scratch, "job")
        folder.mkdir()
        (folder / JOB_FILE).write_bytes(submission.content)
        if not in_image:
            wheel = build_wheel(Path(scratch))
            kernels = has_kernels(wheel)
            environment["py_modules"] = [str(wheel)]
        jobs.start(job, COMMAND, folder, submission.label(attempt), environment)
    return Submitted(job, is_new=True, attempt=attempt, has_kernels=kernels)


def _places(spec: JobSpec) -> list[tuple[str, str]]:
    """List what a job names outside of itself."""
    return [
        *(("input", path) for path in spec.input),
        ("output", spec.output),
        ("model", spec.model),
        *(("adapter", path) for path in filter(None, (spec.adapter, *spec.adapters.values()))),
    ]


def _only_here(setting: str, value: str) -> str | None:
    """Say why a path means something else on another machine, or return None."""
    scheme, separator, rest = value.partition("://")
    if separator and scheme != "file":
        return None
    path = rest if separator else value
    if path.startswith("~"):
        return "is in a home folder"
    if Path(path).is_absolute():
        return None
    if setting in ("model", "adapter") and not separator and not Path(path).exists():
        return None  # a hub id
    return "is relative to this machine's folder"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""
