"""Parquet in, Parquet out: batch jobs on Ray Data.

    from pipelines import JobSpec, run_job

`run_job` brings Ray along, so it is imported when it is first asked for: those who only read a job
file do not wait for it.
"""

from typing import TYPE_CHECKING, Any

from .errors import InputError, JobError, JobInterrupted, PlanMismatch, StorageError
from .job import JobSpec
from .report import JobReport, Progress

if TYPE_CHECKING:
    from .run import run_job

__all__ = [
    "InputError",
    "JobError",
    "JobInterrupted",
    "JobReport",
    "JobSpec",
    "PlanMismatch",
    "Progress",
    "StorageError",
    "run_job",
]


def __getattr__(name: str) -> Any:
    if name == "run_job":
        from .run import run_job  # noqa: PLC0415 - see above

        return run_job
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
