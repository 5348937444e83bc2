"""Submitted jobs from a terminal: standard output for ids, logs and tables; notes beside it."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from .errors import SubmissionError
from .follow import exit_status, follow, wait_for_end
from .jobs import Jobs, SubmittedJob
from .show import as_json as one_as_json
from .show import last_line, lines, record, table
from .submission import STOP_WAIT_S, Submission, Submitted, submit

REFRESH_S = 5.0
STOP_MARGIN_S = 30  # for the cluster to notice that a driver has ended


@dataclass(frozen=True, slots=True)
class Reader:
    """How much the person who submits wants to see.

    Attributes:
        follow: what the job writes, until it ends.
        quiet: no notes.
    """

    follow: bool
    quiet: bool


def submit_job(
    path: Path, address: str | None, *, name: str | None, in_image: bool, reader: Reader
) -> int:
    """Send a job file to a cluster, and give the command's exit status.

    Raises:
        GemmarayError: it can't be sent, or could not be started; JobInterrupted after Ctrl-C.
    """
    submission = Submission.read(path, name)
    jobs = Jobs.at(address)
    sent = submit(jobs, submission, in_image=in_image)
    typer.echo(sent.job)
    if not reader.quiet:
        for note in _notes(sent, jobs.url, follows=reader.follow):
            typer.echo(note, err=True)
    return _follow(jobs, sent.job) if reader.follow else 0


def list_jobs(address: str | None, *, as_json: bool) -> None:
    """Print the jobs of a cluster."""
    found = Jobs.at(address).ours()
    if as_json:
        typer.echo(json.dumps([record(job) for job in found]))
    else:
        typer.echo("\n".join(table(found)) if found else "no job was submitted to this cluster")


def show_logs(job: str, address: str | None, *, follow: bool) -> int:
    """Print what a job has written, and give the command's exit status."""
    jobs = Jobs.at(address)
    if follow:
        return _follow(jobs, job)
    typer.echo(jobs.logs(job), nl=False)
    return 0


def cancel_job(job: str, address: str | None) -> None:
    """End a job, and wait until it has ended.

    Raises:
        SubmissionError: it does not end.
    """
    jobs = Jobs.at(address)
    seen = jobs.get(job)
    if seen.has_ended:
        typer.echo(f"{job} has ended already: {seen.state}")
        return
    jobs.stop(job)
    seen = wait_for_end(jobs, job, STOP_WAIT_S + STOP_MARGIN_S)
    if not seen.has_ended:
        raise SubmissionError(f"{job} was told to end and is still {seen.state}")
    typer.echo(f"{job}: {seen.state}; submit its job file again to resume it")


def show_job(job: str, address: str | None, *, watch: bool, as_json: bool) -> None:
    """Print how a submitted job is; with `watch`, until it has ended or Ctrl-C is pressed."""
    jobs = Jobs.at(address)
    try:
        while True:
            seen = jobs.get(job)
            progress = last_line(jobs.logs(job))
            text = (
                one_as_json(seen, progress=progress)
                if as_json
                else "\n".join(lines(seen, progress))
            )
            typer.echo(text)
            if not watch or seen.has_ended:
                return
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return  # the way to leave


def _follow(jobs: Jobs, job: str) -> int:
    ended: SubmittedJob = follow(jobs, job, lambda text: typer.echo(text, nl=False))
    status = exit_status(ended)
    typer.echo(f"{job}: {ended.state}", err=True)
    return status


def _notes(sent: Submitted, url: str, *, follows: bool) -> Iterator[str]:
    if not sent.is_new:
        yield "this job is running there already; it was not started again"
    elif sent.attempt > 1:
        yield f"submitted for the {_ordinal(sent.attempt)} time: it goes on where it was"
    if sent.has_kernels is False:
        yield (
            "this installation has no native kernels, so CPUs of the cluster compute without them: "
            "install gemmaray where there is a C++ compiler, or in the image (--in-image)"
        )
    if not follows:
        yield f"gemmaray logs {sent.job} --follow --address {url} shows what it writes"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 20 else ending}"
