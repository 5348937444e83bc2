"""Parquet in, Parquet out: batch jobs on Ray Data.

    from pipelines import JobSpec, run_job

`run_job` and `retry_failed` bring Ray along, so they are imported when they are first asked for:
those who only read a job file do not wait for it.
"""

from typing import TYPE_CHECKING, Any

from .error_counts import ErrorCount
from .errors import InputError, JobError, JobInterrupted, PlanMismatch, StorageError
from .job import JobSpec
from .report import JobReport, Progress

if TYPE_CHECKING:
    from .retry import retry_failed
    from .run import run_job

__all__ = [
    "ErrorCount",
    "InputError",
    "JobError",
    "JobInterrupted",
    "JobReport",
    "JobSpec",
    "PlanMismatch",
    "Progress",
    "StorageError",
    "retry_failed",
    "run_job",
]


def __getattr__(name: str) -> Any:
    if name == "run_job":
        from .run import run_job  # noqa: PLC0415 - see above

        return run_job
    if name == "retry_failed":
        from .retry import retry_failed  # noqa: PLC0415 - see above

        return retry_failed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
