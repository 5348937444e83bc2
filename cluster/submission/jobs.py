"""The jobs of a cluster, as its Jobs API knows them."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from .dashboard import find_dashboard, open_client, translated

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

State = Literal["pending", "running", "stopped", "succeeded", "failed"]
ENDED = {"stopped", "succeeded", "failed"}
OF_THE_COMMAND = "JOB_ENTRYPOINT_COMMAND_ERROR"  # Ray's word for: it ran, and failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What we have the cluster keep with a job.

    Attributes:
        place: tells its output from others.
        digest: tells its content from others.
        attempt: counts the submissions to this place, from 1.
        output: for people.
        by: who submitted it.
    """

    place: str = ""
    digest: str = ""
    attempt: int = 0
    output: str = ""
    by: str = ""

    def metadata(self) -> dict[str, str]:
        """Write it as Ray keeps it."""
        return {f"gemmaray_{name}": str(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def of(cls, metadata: Mapping[str, str] | None) -> Self:
        """Read it; jobs that others submitted have an empty one."""
        found = {name: (metadata or {}).get(f"gemmaray_{name}", "") for name in cls.__slots__}
        attempt = found.pop("attempt")
        return cls(**found, attempt=int(attempt) if attempt.isdigit() else 0)


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job on a cluster.

    Attributes:
        id: what it is called there.
        state: of its driver.
        label: what was written down when it was submitted.
        started: unix seconds, when it was submitted.
        ended: unix seconds.
        ran: whether its driver was started, as far as its end tells.
        exit_status: of its driver.
        message: why it failed, in a line.
    """

    id: str
    state: State
    label: Label
    started: float | None
    ended: float | None
    ran: bool
    exit_status: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED

    @classmethod
    def of(cls, details: "JobDetails") -> Self:
        """Read what the API says."""
        state = cast("State", str(details.status).lower())
        ran = details.error_type in {None, OF_THE_COMMAND}
        return cls(
            id=details.submission_id or details.job_id or "",
            state=state,
            label=Label.of(details.metadata),
            started=_seconds(details.start_time),
            ended=_seconds(details.end_time),
            ran=ran,
            exit_status=details.driver_exit_code,
            message=_reason(details.message or "", ran=ran) if state == "failed" else "",
        )


@dataclass(frozen=True)
class Jobs:
    """The Jobs API of one cluster; each method raises SubmissionError where it fails."""

    url: str
    client: "JobSubmissionClient"

    @classmethod
    def at(cls, address: str | None) -> Self:
        """Reach a cluster; see find_dashboard."""
        url = find_dashboard(address)
        return cls(url, open_client(url))

    def ours(self) -> list[SubmittedJob]:
        """List the jobs that `gemmaray submit` sent, the oldest first."""
        with translated(self.url):
            found = [SubmittedJob.of(details) for details in self.client.list_jobs()]
        return sorted((job for job in found if job.label.place), key=lambda job: job.started or 0)

    def get(self, job: str) -> SubmittedJob:
        """Look at one job, also of others."""
        with translated(self.url, job):
            return SubmittedJob.of(self.client.get_job_info(job))

    def start(
        self, job: str, command: str, folder: Path, label: Label, runtime_env: dict[str, Any]
    ) -> None:
        """Start a command.

        Args:
            job: its id.
            command: for a shell.
            folder: what is in it when it starts.
            label: kept with it.
            runtime_env: more of Ray's settings for all its processes.

        Raises:
            TakenError: there is a job of this id.
            SubmissionError: it can't be started.
        """
        with translated(self.url, job):
            self.client.submit_job(
                entrypoint=command,
                submission_id=job,
                runtime_env={"working_dir": str(folder), **runtime_env},
                metadata=label.metadata(),
            )

    def stop(self, job: str) -> None:
        """Have a job's driver end; it is sent SIGTERM."""
        with translated(self.url, job):
            self.client.stop_job(job)

    def logs(self, job: str) -> str:
        """Give all that a job's driver has written."""
        with translated(self.url, job):
            return str(self.client.get_job_logs(job))

    async def tail(self, job: str) -> AsyncIterator[str]:
        """Give all that a job's driver writes, from the start, until it ends."""
        from aiohttp import ClientError  # noqa: PLC0415 - the client brings it along

        try:
            async for text in self.client.tail_job_logs(job):
                yield text
        except ClientError as error:
            raise ConnectionError(str(error)) from error


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _reason(message: str, *, ran: bool) -> str:
    """Find what says why: our own words if there are any; else a program says it at its end."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    ours = [number for number, line in enumerate(lines) if line.startswith("gemmaray: ")]
    if ours:
        return " ".join(lines[ours[-1] :]).removeprefix("gemmaray: ")
    return lines[-1] if ran else lines[0]
