"""`gemmaray doctor`.

Torch and Ray take seconds to import, so what needs them is imported where it is used (PLC0415).
"""

from typing import Annotated

import typer

from cluster.options import S3Options
from cluster.signature import with_options
from cluster.submission.commands import ClusterAddress, Json


@with_options
def doctor(
    s3: S3Options,
    *,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A checkpoint to look at, too."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")
    ] = None,
    address: ClusterAddress = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="OUTPUT", help="A folder, local or s3://, that jobs are to write to."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where `gemmaray serve` is to listen.")
    ] = 8000,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a set-up, and how to mend it.

    Looks at this machine: Python, packages, GPUs, kernels, memory, limits; and at a cluster, a
    checkpoint and an output, if they are named. Ends with 1 if there is a problem.
    """
    from pipelines.s3 import S3Settings  # noqa: PLC0415

    from .examination import Subject, examine, report  # noqa: PLC0415

    subject = Subject(model, revision, address, output, S3Settings(**s3.s3_values()), port)
    raise typer.Exit(report(examine(subject), as_json=as_json))
