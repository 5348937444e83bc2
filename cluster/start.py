"""From the options of a task command to its job, run."""

from typing import Any, NoReturn

import typer

from pipelines.job import JobSpec

from .options import JobOptions, Place, job_values


def start(place: Place, options: JobOptions, task: dict[str, Any], **settings: Any) -> NoReturn:
    """Run a job of one task, or answer standard input, and exit.

    Args:
        place: where prompts come from and answers go.
        options: what all tasks have in common.
        task: its name and settings.
        settings: other settings of the job; None leaves what it does by default.

    Raises:
        GemmarayError: the job can't be run.
    """
    spec = JobSpec(**job_values(place, options, task, **settings))
    if not place.is_stream:
        launch_job(spec, address=options.address, quiet=options.quiet)
    from .stdio import answer_lines  # noqa: PLC0415 - torch takes seconds to import

    raise typer.Exit(answer_lines(spec, as_json=options.jsonl, quiet=options.quiet))


def launch_job(spec: JobSpec, *, address: str | None, quiet: bool) -> NoReturn:
    """Run a job, and exit. Raises GemmarayError."""
    from .launch import launch  # noqa: PLC0415 - Ray takes seconds to import

    raise typer.Exit(launch(spec, address=address, quiet=quiet))
