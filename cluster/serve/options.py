"""The options of `gemmaray serve`, and the arguments that they amount to."""

import dataclasses
from typing import Annotated, Any, Literal

import typer

from cluster.engine_options import MODEL, Adapter, ComputeIn, ComputeOn, Revision, option
from cluster.options import Address, Quiet, given
from model.params import Quantization

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


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """What to serve, and where."""

    model: Annotated[
        str, option("A checkpoint folder, a Hugging Face id, or s3://bucket/prefix.", panel=MODEL)
    ]
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8000
    host: Annotated[
        str, typer.Option(help="Where to listen; others are let in with --api-key-file alone.")
    ] = "127.0.0.1"
    api_key_file: Annotated[
        str | None,
        option(
            "Keys of those who may ask; `gemmaray api-key` makes them.",
            panel=ACCESS,
            default="everybody on this machine may",
            metavar="FILE",
        ),
    ] = None
    name: Annotated[
        str | None,
        option(
            "What requests call the model.", panel=MODEL, default="the id, or the folder's name"
        ),
    ] = None
    revision: Revision = None
    adapter: Adapter = None
    adapters: Annotated[
        str | None,
        option(
            "LoRA adapters, each a model of its own to requests.",
            panel=MODEL,
            metavar="NAME=FOLDER,...",
        ),
    ] = None
    tensor_parallel: Annotated[
        int | None, option("GPUs (or processes) that share one engine.", panel=MODEL, default="1")
    ] = None
    replicas: Annotated[
        str | None, option("Engines side by side.", panel=MODEL, default="1", metavar="N|MIN..MAX")
    ] = None
    cpus: Annotated[
        float | None,
        option(
            "CPUs of each engine.",
            panel=MODEL,
            default="all of this machine's, shared by the engines",
        ),
    ] = None
    max_ongoing: Annotated[
        int | None,
        option("Requests that an engine computes at the same time.", panel=MODEL, default="64"),
    ] = None
    max_queued: Annotated[
        int | None,
        option("Requests that wait; more are refused with 429.", panel=MODEL, default="128"),
    ] = None
    batch_dir: Annotated[
        str | None,
        option(
            "Where files and batches are: a folder that all nodes see, or s3://bucket/prefix.",
            panel=BATCHES,
            default="/v1/files and /v1/batches are not served",
            metavar="DIR",
        ),
    ] = None
    batch_ongoing: Annotated[
        int | None,
        option("Lines of batches that are in an engine at a time.", panel=BATCHES, default="32"),
    ] = None
    system: Annotated[
        Literal["reject", "fold"] | None,
        option(
            "Refuse a system message, or put it before the first user message.",
            panel=MODEL,
            default="reject",
        ),
    ] = None
    dtype: ComputeIn = None
    quantization: Annotated[
        Quantization | None,
        option(
            "The layers' weights in eight or four bits; see docs/quantization.md.",
            panel=MODEL,
            default="none",
        ),
    ] = None
    device: ComputeOn = None
    max_model_len: Annotated[
        int | None,
        option(
            "Longest prompt plus answer, in tokens.", panel=MODEL, default="what the model allows"
        ),
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
