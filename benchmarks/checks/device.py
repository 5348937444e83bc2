"""The machine and its libraries: versions, ceilings, fp8, CUDA graphs, NCCL.

Nothing of this project is imported: these run before its dependencies are in place.
"""

import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from .environment import Details, Setup, error_of, require, significant

PACKAGES = ("torch", "triton", "transformers", "flash-attn", "numpy")
# Without these the model can't be imported; of the package's dependencies, the others serve Ray,
# Parquet, S3 and the command line.
NEEDED = (
    "filelock",
    "huggingface-hub",
    "psutil",
    "pydantic",
    "rich",
    "safetensors",
    "tokenizers",
    "transformers",
    "typing-extensions",
)
TOOLS = ("nvcc", "g++", "ninja")
BF16_ERROR = 1e-2


def versions(setup: Setup) -> Details:
    """Name the device, its driver, and the packages and tools that matter."""
    details: Details = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in sorted({*PACKAGES, *NEEDED})},
        "missing": [name for name in NEEDED if _version(name) is None],
        "tools": {name: shutil.which(name) is not None for name in TOOLS},
        "cores": torch.get_num_threads(),
    }
    if setup.on_cuda:
        properties = torch.cuda.get_device_properties(0)
        details |= {
            "gpus": torch.cuda.device_count(),
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "processors": properties.multi_processor_count,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": str(torch.cuda.nccl.version()),  # type: ignore[no-untyped-call]
        }
    return details


def ceilings(setup: Setup) -> Details:
    """Measure what the device reaches: a large bf16 matmul, and a copy of a large tensor."""
    return {
        "bf16_tflops": significant(1e-12 * setup.matmul_flops_per_s()),
        "copy_gb_per_s": significant(1e-9 * setup.copy_bytes_per_s()),
    }


def fp8(setup: Setup) -> Details:
    """Multiply in fp8 with a scale for each row, as weights and activations would be quantized."""
    rows, inner, columns = (512, 2304, 18432) if setup.on_cuda else (64, 512, 256)
    x = setup.randn(rows, inner, dtype=torch.bfloat16)
    w = setup.randn(columns, inner, dtype=torch.bfloat16)
    x8, x_scale = _quantized(x)
    w8, w_scale = _quantized(w)

    def scaled() -> Tensor:
        return torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
            x8, w8.t(), x_scale, w_scale.t(), out_dtype=torch.bfloat16
        )

    return {
        "error": require(error_of(scaled(), x.float() @ w.float().t()), 0.06, "fp8 product"),
        "faster_than_bf16": significant(setup.seconds(lambda: x @ w.t()) / setup.seconds(scaled)),
    }


def cuda_graph(setup: Setup) -> Details:
    """Capture a layer's decode and replay it with other inputs."""
    setup.need_cuda()
    rows, width, keys = 8, 256, 512
    w = setup.randn(width, width, dtype=torch.bfloat16) / 16.0
    cache = setup.randn(keys, width, dtype=torch.bfloat16)
    x = setup.randn(rows, width, dtype=torch.bfloat16)
    slots = torch.arange(rows, device=setup.device)

    def layer() -> Tensor:
        h = functional.linear(functional.rms_norm(x, (width,)), w)
        cache.index_copy_(0, slots, h)
        weights = (50.0 * torch.tanh(h @ cache.t() / 50.0)).softmax(-1)
        return weights @ cache

    graph = torch.cuda.CUDAGraph()
    layer()  # libraries allocate their workspaces outside the capture
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        out = layer()
    x.copy_(x.flip(0))
    slots.add_(rows)
    graph.replay()
    replayed = out.clone()
    return {
        "error": require(error_of(replayed, layer()), 1e-6, "replayed graph"),
        "eager_us": significant(1e6 * setup.seconds(layer)),
        "replay_us": significant(1e6 * setup.seconds(graph.replay)),
    }


def collectives(setup: Setup) -> Details:
    """Start NCCL (gloo on a CPU) with one rank and reduce a tensor."""
    backend = "nccl" if setup.on_cuda else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
        x = torch.ones(1 << 20, device=setup.device)
        dist.all_reduce(x)
        total = float(x.sum())
        dist.destroy_process_group()
    require(abs(total / (1 << 20) - 1.0), 0.0, "sum over one rank")
    return {"backend": backend}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("\n")[0] or None


def _quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x in fp8 and the scale [rows, 1] of each of its rows."""
    top = torch.finfo(torch.float8_e4m3fn).max
    scale = x.float().abs().amax(1, keepdim=True) / top
    return (x.float() / scale).to(torch.float8_e4m3fn), scale
