"""Options of an engine that several commands have, each written once."""

from typing import Annotated, Any

import typer

from model.params import Device

MODEL = "Model and machine"


def option(text: str, *names: str, panel: str, default: str = "", metavar: str = "") -> Any:
    """Describe an option whose default (None) leaves the choice to what it is for."""
    return typer.Option(
        *names,
        help=text,
        rich_help_panel=panel,
        show_default=default or False,
        metavar=metavar or None,
    )


Revision = Annotated[str | None, option("Branch, tag or commit of a Hugging Face id.", panel=MODEL)]
Adapter = Annotated[
    str | None, option("A LoRA adapter to merge into the model.", panel=MODEL, metavar="FOLDER")
]
ComputeIn = Annotated[
    str | None,
    option(
        "Of weights, activations and KV cache.",
        panel=MODEL,
        default="auto: what the checkpoint says",
        metavar="auto|bfloat16|float32",
    ),
]
ComputeOn = Annotated[
    Device | None,
    option("Where it computes.", panel=MODEL, default="auto: CUDA where there is any"),
]
