"""The options of `gemmaray chat`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.engine_options import MODEL, Adapter, ComputeIn, ComputeOn, Revision, option
from cluster.options import Quiet, Sampling, UsageError, given
from model.params import Quantization

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


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Who answers."""

    model: Annotated[
        str | None,
        option(
            "A checkpoint folder, a Hugging Face id, or s3://bucket/prefix; with --url, the name "
            "of a model there.",
            panel=MODEL,
            default="with --url: the only one",
        ),
    ] = None
    url: Annotated[
        str | None,
        option(
            "An endpoint that speaks OpenAI's API, as in http://host:8000/v1, instead of an "
            "engine here.",
            panel=ENDPOINT,
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        option(
            "A file that holds the key for --url, and nothing else.",
            panel=ENDPOINT,
            default="GEMMARAY_API_KEY or OPENAI_API_KEY",
            metavar="FILE",
        ),
    ] = None
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Goes before the first message.")
    ] = None
    revision: Revision = None
    adapter: Adapter = None
    tensor_parallel: Annotated[
        int | None, option("GPUs (or processes) that share the engine.", panel=MODEL, default="1")
    ] = None
    dtype: ComputeIn = None
    quantization: Annotated[
        Quantization | None,
        option("Weights of the layers in fewer bits.", panel=MODEL, default="none"),
    ] = None
    device: ComputeOn = None
    max_model_len: Annotated[
        int | None,
        option("Longest chat, in tokens.", panel=MODEL, default="what the model allows"),
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
        option("Tokens of an answer at most.", panel="Sampling", default="all there is room for"),
    ] = None
    seed: Annotated[
        int | None,
        option("Fixes what is drawn for each answer.", panel="Sampling", default="drawn anew"),
    ] = None
