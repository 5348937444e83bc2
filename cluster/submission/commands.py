"""`gemmaray submit`, `jobs`, `logs` and `cancel`.

Ray takes seconds to import, so `terminal`, which brings it along, is imported where it is used
(PLC0415).
"""

from pathlib import Path
from typing import Annotated

import typer

from cluster.options import Quiet

ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        metavar="URL",
        help="The dashboard of the cluster, http://HOST:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="What `gemmaray submit` printed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A job file.")],
    *,
    address: ClusterAddress = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Show what the job writes until it ends, and end as it does."
        ),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="The beginning of the job's id.", show_default="the file's name"),
    ] = None,
    in_image: Annotated[
        bool,
        typer.Option(
            "--in-image", help="Send no code: gemmaray is installed on all nodes of the cluster."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Send a job file to a cluster, or resume it there, and print its id.

    The job runs on whether or not anyone looks. A job that runs already is not started again; one
    that has ended goes on where it was.
    """
    from .terminal import Reader, submit_job  # noqa: PLC0415

    reader = Reader(follow=follow, quiet=quiet)
    raise typer.Exit(submit_job(job, address, name=name, in_image=in_image, reader=reader))


def jobs(*, address: ClusterAddress = None, as_json: Json = False) -> None:
    """List the jobs that were submitted to a cluster."""
    from .terminal import list_jobs  # noqa: PLC0415

    list_jobs(address, as_json=as_json)


def logs(
    job: JobId,
    *,
    address: ClusterAddress = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and end as it does.")
    ] = False,
) -> None:
    """Print what a submitted job has written."""
    from .terminal import show_logs  # noqa: PLC0415

    raise typer.Exit(show_logs(job, address, follow=follow))


def cancel(job: JobId, *, address: ClusterAddress = None) -> None:
    """End a submitted job; what it has committed stays, and submitting it again resumes it."""
    from .terminal import cancel_job  # noqa: PLC0415

    cancel_job(job, address)
