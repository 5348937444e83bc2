"""Run a job from a terminal: connect, watch, sum up."""

import typer
from rich.console import Console

import pipelines
from pipelines import JobInterrupted, JobReport, JobSpec

from .connect import connected
from .display import watching
from .summary import summary

ALL_ROWS_FAILED = 1


def launch(spec: JobSpec, *, address: str | None = None, quiet: bool = False) -> int:
    """Run a job to its end, and give the command's exit status.

    Progress goes to standard error, the summary to standard output.

    Raises:
        GemmarayError: the job can't run; JobInterrupted after Ctrl-C.
    """
    console = Console(stderr=True, quiet=quiet)
    console.print("joining the Ray cluster" if address else "starting Ray on this machine")
    try:
        with connected(address):
            report = watch(spec, console)
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
