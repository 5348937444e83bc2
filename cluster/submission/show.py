"""What a person sees of submitted jobs."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from cluster.summary import shortened

from .jobs import SubmittedJob

HEADINGS = ("id", "status", "started", "by", "output", "message")
NOTHING = "-"


def table(jobs: Sequence[SubmittedJob]) -> Iterator[str]:
    """Write jobs one to a line, below headings, in columns as wide as they need to be."""
    rows = [HEADINGS, *(_row(job) for job in jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def lines(job: SubmittedJob, progress: str) -> Iterator[str]:
    """Say how a job is; `progress` is what its driver wrote last."""
    yield f"job       {job.id}: {job.state}"
    if job.label.output:
        yield f"output    {job.label.output}"
        attempt = "the first time" if job.label.attempt == 1 else f"{job.label.attempt} times"
        by = f" by {job.label.by}" if job.label.by else ""
        yield f"submitted {attempt}{by}"
    yield f"started   {_moment(job.started)}"
    if job.has_ended:
        yield f"ended     {_moment(job.ended)}"
    if job.message:
        yield f"message   {shortened(job.message)}"
    elif progress:
        yield f"progress  {shortened(progress)}"


def as_json(job: SubmittedJob, **more: Any) -> str:
    """Write a job as a JSON object."""
    return json.dumps(record(job) | more)


def record(job: SubmittedJob) -> dict[str, Any]:
    """Give what is known of a job under plain names."""
    values = dataclasses.asdict(job)
    label = values.pop("label")
    del values["ran"]
    values["status"] = values.pop("state")
    return values | {name: label[name] for name in ("output", "by", "attempt")}


def last_line(log: str) -> str:
    """Find what a driver wrote last."""
    return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")


def _row(job: SubmittedJob) -> tuple[str, ...]:
    label = job.label
    cells = (job.id, job.state, _moment(job.started), label.by, label.output)
    return (*(cell or NOTHING for cell in cells), shortened(job.message))


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
