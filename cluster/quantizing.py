"""`gemmaray quantize`. Torch takes seconds to import, so it is imported where it is used."""

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from model.params import DType, WeightFormat

from .wording import counted


def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A checkpoint folder, a Hugging Face id, or s3://bucket/prefix."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    *,
    quantization: Annotated[
        WeightFormat, typer.Option(help="The form of the layers' weights; see the documentation.")
    ],
    dtype: Annotated[
        DType,
        typer.Option(
            help="Of what is not quantized, and from which the rest is rounded.",
            show_default="auto: what the checkpoint says",
        ),
    ] = "auto",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")
    ] = None,
) -> None:
    """Write a checkpoint with another one's weights in fewer bits.

    It gives the same answers as the original with --quantization, and takes less room and time to
    load. bnb-int8 and bnb-nf4 are in bitsandbytes' form, which transformers reads too.
    """
    from model.locate import locate  # noqa: PLC0415
    from model.quantize import quantize_checkpoint  # noqa: PLC0415

    written = quantize_checkpoint(locate(source, revision), target, quantization, dtype=dtype)
    typer.echo(
        f"{target}: {quantization}, {decimal(written.bytes)} of weights in "
        f"{counted(written.files, 'file')}, "
        f"instead of {decimal(written.source_bytes)}"
    )
