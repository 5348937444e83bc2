"""The options of `gemmaray serve`, and the arguments that they amount to."""

import dataclasses
from typing import Annotated, Any, Literal

import typer

from cluster.options import Address, Quiet, given
from model.params import Device, Quantization

MODEL = "Model and machine"
ACCESS = "Access"
BATCHES = "Batches"
MODEL_FIELDS = (
    "model",
    "name",
    "revision",
    "adapter",
    "adapters",
    "system",
    "replicas",
    "tensor_parallel",
    "dtype",
    "quantization",
    "device",
    "max_model_len",
    "max_ongoing",
    "max_queued",
    "batch_ongoing",
    "cpus",
)


def _option(text: str, panel: str, *, default: str = "", metavar: str = "") -> Any:
    return typer.Option(
        help=text,
        rich_help_panel=panel,
        show_default=default or False,
        metavar=metavar or None,
    )


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """What to serve, and where."""

    model: Annotated[
        str, _option("A checkpoint folder, a Hugging Face id, or s3://bucket/prefix.", MODEL)
    ]
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8000
    host: Annotated[
        str, typer.Option(help="Where to listen; others are let in with --api-key-file alone.")
    ] = "127.0.0.1"
    api_key_file: Annotated[
        str | None,
        _option(
            "Keys of those who may ask; `gemmaray api-key` makes them.",
            ACCESS,
            default="everybody on this machine may",
            metavar="FILE",
        ),
    ] = None
    name: Annotated[
        str | None,
        _option("What requests call the model.", MODEL, default="the id, or the folder's name"),
    ] = None
    revision: Annotated[
        str | None, _option("Branch, tag or commit of a Hugging Face id.", MODEL)
    ] = None
    adapter: Annotated[
        str | None,
        _option("A LoRA adapter to merge into the model.", MODEL, metavar="FOLDER"),
    ] = None
    adapters: Annotated[
        str | None,
        _option(
            "LoRA adapters, each a model of its own to requests.",
            MODEL,
            metavar="NAME=FOLDER,...",
        ),
    ] = None
    tensor_parallel: Annotated[
        int | None, _option("GPUs (or processes) that share one engine.", MODEL, default="1")
    ] = None
    replicas: Annotated[
        str | None, _option("Engines side by side.", MODEL, default="1", metavar="N|MIN..MAX")
    ] = None
    cpus: Annotated[
        float | None,
        _option(
            "CPUs of each engine.", MODEL, default="all of this machine's, shared by the engines"
        ),
    ] = None
    max_ongoing: Annotated[
        int | None,
        _option("Requests that an engine computes at the same time.", MODEL, default="64"),
    ] = None
    max_queued: Annotated[
        int | None,
        _option("Requests that wait; more are refused with 429.", MODEL, default="128"),
    ] = None
    batch_dir: Annotated[
        str | None,
        _option(
            "Where files and batches are: a folder that all nodes see, or s3://bucket/prefix.",
            BATCHES,
            default="/v1/files and /v1/batches are not served",
            metavar="DIR",
        ),
    ] = None
    batch_ongoing: Annotated[
        int | None,
        _option("Lines of batches that are in an engine at a time.", BATCHES, default="32"),
    ] = None
    system: Annotated[
        Literal["reject", "fold"] | None,
        _option(
            "Refuse a system message, or put it before the first user message.",
            MODEL,
            default="reject",
        ),
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
        _option(
            "The layers' weights in eight or four bits; see docs/quantization.md.",
            MODEL,
            default="none",
        ),
    ] = None
    device: Annotated[
        Device | None,
        _option("Where it computes.", MODEL, default="auto: CUDA where there is any"),
    ] = None
    max_model_len: Annotated[
        int | None,
        _option("Longest prompt plus answer, in tokens.", MODEL, default="what the model allows"),
    ] = None
    address: Address = None
    quiet: Quiet = False

    def arguments(self) -> dict[str, Any]:
        """Give the values of ServeArgs that the user set."""
        model = given({name: getattr(self, name) for name in MODEL_FIELDS})
        return given(
            {
                "models": [model],
                "api_key_file": self.api_key_file,
                "batch_dir": self.batch_dir,
            }
        )
