"""`gemmaray attention-mask`.

Torch takes seconds to import, so what needs it is imported where it is used (PLC0415).
"""

from pathlib import Path
from typing import Annotated

import typer


def attention_mask(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the model is to read.")],
    *,
    model: Annotated[
        str,
        typer.Option(
            help="A checkpoint folder, a Hugging Face id, or s3://bucket/prefix. Its weights are "
            "not needed."
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the text into a user turn of the chat template.")
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            help="Show a smaller window than the model's, since short texts fit into that.",
            show_default="the model's",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page that works offline instead."),
    ] = None,
) -> None:
    """Show which tokens see which, in full and in sliding layers."""
    from .picture import picture_of  # noqa: PLC0415

    picture = picture_of(text, model, revision, chat=chat, window=window)
    if html is not None:
        from .page import write_page  # noqa: PLC0415

        typer.echo(write_page(picture, html))
        return
    from rich.console import Console  # noqa: PLC0415

    from .text import lines  # noqa: PLC0415

    console = Console(highlight=False)
    for line in lines(picture, console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True)
