"""`gemmaray convert`.

Torch takes seconds to import, so what needs it is imported where it is used (PLC0415).
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.filesize import decimal

from pipelines.errors import JobInterrupted

from .signals import sigterm_interrupts
from .wording import counted


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A .ckpt file or a folder of gemma_pytorch, a folder of a Flax checkpoint; with "
            "--to what else names a checkpoint.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="DST", help="A folder that is not there yet; for gemma-pytorch also a .ckpt."
        ),
    ],
    *,
    to: Annotated[
        Literal["transformers", "gemma-pytorch", "flax"],
        typer.Option(help="The layout to write; gemmaray reads that of transformers."),
    ] = "transformers",
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The config.json of the model, where shapes do not tell: not 2B, 9B or 27B.",
            show_default="the one in SRC, or what the shapes tell",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A folder with tokenizer.json, or the file tokenizer.model.",
            show_default="what lies beside the weights",
        ),
    ] = None,
    instruct: Annotated[
        bool,
        typer.Option(
            "--instruct",
            help="The model was tuned for turns (-it): write a chat template and have answers end "
            "at <end_of_turn>. Not needed where the tokenizer has a chat template.",
        ),
    ] = False,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Of each file of weights, and of the memory needed.")
    ] = "5GB",
) -> None:
    """Bring Google's original checkpoints of Gemma 2 into the layout that is read here, or back.

    Nothing in SRC is run, and every name, shape and type is checked before anything is written.
    DST appears when it is complete, with the same bits in all weights.
    """
    from model.convert import Wishes  # noqa: PLC0415
    from model.convert import convert as convert_checkpoint  # noqa: PLC0415

    from .preflight_text import parse_size  # noqa: PLC0415

    wishes = Wishes(
        to=to,
        config=config,
        tokenizer=tokenizer,
        instruct=instruct,
        max_shard_bytes=parse_size(max_shard_size, "--max-shard-size"),
    )
    try:
        with sigterm_interrupts():
            done = convert_checkpoint(source, target, wishes)
    except KeyboardInterrupt:
        raise JobInterrupted(f"interrupted: {target} was not written") from None
    kind = f"Gemma 2 {done.size}" if done.size else "a Gemma 2 of a size of its own"
    typer.echo(f"{source}: {kind} in the layout of {done.layout}, {done.dtype}")
    typer.echo(f"{target}: {counted(done.tensors, 'tensor')}, {decimal(done.nbytes)}")
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
