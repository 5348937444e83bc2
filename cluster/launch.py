"""Run a job from a terminal: connect, watch, sum up."""

from collections.abc import Callable
from functools import partial

import typer
from rich.console import Console

import pipelines
from pipelines import JobInterrupted, JobReport, JobSpec
from pipelines.s3 import S3Settings

from .connect import connected
from .display import watching
from .signals import sigterm_interrupts
from .summary import summary

ALL_ROWS_FAILED = 1


def launch(spec: JobSpec, *, address: str | None = None, quiet: bool = False) -> int:
    """Run a job to its end, and give the command's exit status.

    Progress goes to standard error, the summary to standard output.

    Raises:
        GemmarayError: the job can't run; JobInterrupted after Ctrl-C or SIGTERM.
    """
    return _launched(partial(watch, spec), address=address, quiet=quiet)


def retry(
    output: str,
    s3: S3Settings,
    *,
    everything: bool,
    address: str | None = None,
    quiet: bool = False,
) -> int:
    """Compute the failed rows of an output again, and give the command's exit status.

    Prints and raises as `launch`.
    """

    def work(console: Console) -> JobReport:
        with watching(console) as show:
            return pipelines.retry_failed(output, s3, everything=everything, on_progress=show)

    return _launched(work, address=address, quiet=quiet)


def _launched(work: Callable[[Console], JobReport], *, address: str | None, quiet: bool) -> int:
    console = Console(stderr=True, quiet=quiet)
    console.print("joining the Ray cluster" if address else "starting Ray on this machine")
    try:
        # Ray takes SIGTERM for itself when it is connected, so it is taken back then.
        with sigterm_interrupts(), connected(address), sigterm_interrupts():
            report = work(console)
    except KeyboardInterrupt:
        raise JobInterrupted("interrupted: run the same command again to resume") from None
    if not quiet:
        typer.echo(summary(report))
    return ALL_ROWS_FAILED if 0 < report.rows_total == report.rows_failed else 0


def watch(spec: JobSpec, console: Console) -> JobReport:
    """Run a job on the connected cluster and show how it goes."""
    with watching(console) as show:
        # Asked for only now: it brings Ray along, which must not be imported before `connected`.
        return pipelines.run_job(spec, on_progress=show)
