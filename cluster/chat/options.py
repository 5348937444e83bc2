"""The options of `gemmaray chat`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.options import Quiet, Sampling, UsageError, given
from model.params import Device, Quantization

MODEL = "Model and machine"
ENDPOINT = "Endpoint"
ENGINE_FIELDS = (
    "revision",
    "adapter",
    "tensor_parallel",
    "dtype",
    "quantization",
    "device",
    "max_model_len",
)


def _option(text: str, panel: str, *, default: str = "", metavar: str = "") -> Any:
    return typer.Option(
        help=text, rich_help_panel=panel, show_default=default or False, metavar=metavar or None
    )


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Who answers."""

    model: Annotated[
        str | None,
        _option(
            "A checkpoint folder, a Hugging Face id, or s3://bucket/prefix; with --url, the name "
            "of a model there.",
            MODEL,
            default="with --url: the only one",
        ),
    ] = None
    url: Annotated[
        str | None,
        _option(
            "An endpoint that speaks OpenAI's API, as in http://host:8000/v1, instead of an "
            "engine here.",
            ENDPOINT,
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        _option(
            "A file that holds the key for --url, and nothing else.",
            ENDPOINT,
            default="GEMMARAY_API_KEY or OPENAI_API_KEY",
            metavar="FILE",
        ),
    ] = None
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Goes before the first message.")
    ] = None
    revision: Annotated[
        str | None, _option("Branch, tag or commit of a Hugging Face id.", MODEL)
    ] = None
    adapter: Annotated[
        str | None, _option("A LoRA adapter to merge into the model.", MODEL, metavar="FOLDER")
    ] = None
    tensor_parallel: Annotated[
        int | None, _option("GPUs (or processes) that share the engine.", MODEL, default="1")
    ] = None
    dtype: Annotated[
        str | None,
        _option(
            "Of weights, activations and KV cache.",
            MODEL,
            default="auto: what the checkpoint says",
            metavar="auto|bfloat16|float32",
        ),
    ] = None
    quantization: Annotated[
        Quantization | None,
        _option("Weights of the layers in fewer bits.", MODEL, default="none"),
    ] = None
    device: Annotated[
        Device | None, _option("Where it computes.", MODEL, default="auto: CUDA where there is any")
    ] = None
    max_model_len: Annotated[
        int | None,
        _option("Longest chat, in tokens.", MODEL, default="what the model allows"),
    ] = None
    quiet: Quiet = False

    def engine_values(self) -> dict[str, Any]:
        """Give what the user set, under the names of EngineConfig."""
        return given({name: getattr(self, name) for name in ENGINE_FIELDS})

    def check(self) -> None:
        """Check that one place is named where answers come from.

        Raises:
            UsageError: options that contradict each other.
        """
        if self.url is None:
            if self.model is None:
                raise UsageError(
                    "say who is to answer: --model CHECKPOINT, or --url of an endpoint"
                )
            if self.api_key_file is not None:
                raise UsageError("--api-key-file goes with --url")
            return
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"--url is as in http://host:8000/v1, not {self.url}")
        for name in self.engine_values():
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for an engine here; an endpoint has its own")


@dataclasses.dataclass(frozen=True)
class ChatSampling(Sampling):
    """How answers are drawn; `/set` changes it."""

    max_tokens: Annotated[
        int | None,
        _option("Tokens of an answer at most.", "Sampling", default="all there is room for"),
    ] = None
    seed: Annotated[
        int | None,
        _option("Fixes what is drawn for each answer.", "Sampling", default="drawn anew"),
    ] = None
