"""A submitted job, watched until its end."""

import asyncio
import time
from collections.abc import Callable

from pipelines.errors import JobInterrupted

from .errors import SubmissionError
from .jobs import Jobs, SubmittedJob

INTERRUPTED = 130
LOOKS_A_SECOND = 2
LOST_AFTER = 30  # looks at a cluster that does not answer
PAUSE_S = 1.0


def follow(jobs: Jobs, job: str, show: Callable[[str], None]) -> SubmittedJob:
    """Show what a job's driver writes, from the start, until it has ended.

    Raises:
        JobInterrupted: after Ctrl-C; the job goes on.
        SubmissionError: there is no such job, or the cluster is gone.
    """
    jobs.get(job)
    try:
        return asyncio.run(_follow(jobs, job, show))
    except KeyboardInterrupt:
        raise JobInterrupted(f"left {job}, which goes on; {_way_back(jobs, job)}") from None


def exit_status(job: SubmittedJob) -> int:
    """Give the exit status of a command that waited for a job which has ended.

    Raises:
        SubmissionError: the job's driver was never started.
    """
    if job.state == "succeeded":
        return 0
    if job.state == "stopped":
        return INTERRUPTED
    if not job.ran:
        raise SubmissionError(f"{job.id} could not be started: {job.message}")
    status = job.exit_status or 0
    return status if status > 0 else 1  # below 0: the signal that ended it


def wait_for_end(jobs: Jobs, job: str, seconds: float) -> SubmittedJob:
    """Look at a job until it has ended, or for so long.

    Raises:
        SubmissionError: there is no such job, or the cluster can't be reached.
    """
    end = time.monotonic() + seconds
    while True:
        seen = jobs.get(job)
        if seen.has_ended or time.monotonic() > end:
            return seen
        time.sleep(1 / LOOKS_A_SECOND)


async def _follow(jobs: Jobs, job: str, show: Callable[[str], None]) -> SubmittedJob:
    """Tail the log, and tail it again where a proxy or a restart cut the connection."""
    shown = 0
    lost = 0
    while True:
        at = 0
        try:
            async for text in jobs.tail(job):
                at += len(text)
                if at > shown:
                    show(text[-(at - shown) :])
                    shown = at
                lost = 0
            seen = jobs.get(job)
            if seen.has_ended:
                return seen
        except (SubmissionError, RuntimeError, OSError) as error:
            lost += 1
            if lost >= LOST_AFTER:
                raise SubmissionError(
                    f"lost {job}, which may go on: {error}; {_way_back(jobs, job)}"
                ) from None
        await asyncio.sleep(PAUSE_S)


def _way_back(jobs: Jobs, job: str) -> str:
    return f"gemmaray logs {job} --follow --address {jobs.url} comes back to it"
