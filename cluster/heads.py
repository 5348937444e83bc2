"""The commands that read a head of the checkpoint, or hidden states."""

import dataclasses
from typing import Annotated, Any

import typer

from model.long_texts import LongTextsMode
from model.tasks import Aggregation, FunctionToApply, Pooling
from pipelines.task_settings import EmbeddingDType

from .options import JobOptions, Place, given
from .signature import with_options
from .start import start

LONG_TEXTS = "Longer texts"


@dataclasses.dataclass(frozen=True)
class LongTextOptions:
    """What becomes of texts of more tokens than the model takes."""

    long_texts: Annotated[
        LongTextsMode | None,
        typer.Option(
            help="Refuse texts that are too long, cut them off, or compute them in windows.",
            rich_help_panel=LONG_TEXTS,
            show_default="error",
        ),
    ] = None
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens that neighbouring windows share; with --long-texts stride.",
            rich_help_panel=LONG_TEXTS,
            show_default=False,
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """Give what the user set, under the names of JobSpec."""
        return dataclasses.asdict(self)


@with_options
def classify(
    place: Place,
    options: JobOptions,
    long_texts: LongTextOptions,
    function_to_apply: Annotated[
        FunctionToApply | None,
        typer.Option(
            help="What makes scores of the head's outputs.",
            show_default="by the head's problem type",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Report so many labels, best first.", show_default="all, in order"),
    ] = None,
) -> None:
    """Label prompts with a classification head."""
    settings = {"function_to_apply": function_to_apply, "top_k": top_k}
    start(place, options, {"classify": given(settings)}, **long_texts.values())


@with_options
def tag(
    place: Place,
    options: JobOptions,
    long_texts: LongTextOptions,
    aggregation: Annotated[
        Aggregation | None,
        typer.Option(help="How tokens become spans, as in transformers.", show_default="simple"),
    ] = None,
    ignore_label: Annotated[
        list[str] | None,
        typer.Option(
            help="A label that makes no span; may be given many times.",
            metavar="LABEL",
            show_default="O",
        ),
    ] = None,
) -> None:
    """Find spans with a token classification head."""
    settings = {"aggregation": aggregation, "ignore_labels": ignore_label}
    start(place, options, {"tag_tokens": given(settings)}, **long_texts.values())


@with_options
def embed(
    place: Place,
    options: JobOptions,
    long_texts: LongTextOptions,
    pooling: Annotated[
        Pooling | None,
        typer.Option(
            help="The hidden state of the last token, the mean of all, that of the first (cls), or "
            "one for each (none).",
            show_default="last",
        ),
    ] = None,
    *,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Give unit length.",
            show_default="normalize, but not with --pooling none",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="Of the hidden states as transformers numbers them: 0 is the embeddings.",
            show_default="-1, after the final norm",
        ),
    ] = None,
    vector_dtype: Annotated[
        EmbeddingDType | None,
        typer.Option(help="Of the numbers that are written.", show_default="float32"),
    ] = None,
) -> None:
    """Turn each prompt into a vector."""
    settings = {"pooling": pooling, "normalize": normalize, "layer": layer, "dtype": vector_dtype}
    start(place, options, {"embed": given(settings)}, **long_texts.values())
