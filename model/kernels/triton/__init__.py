"""Kernels in Triton (Tillet et al. 2019), for CUDA: plain torch's several passes in one.

`device.py` is the code that runs on the GPU; it is compiled at its first call and kept in Triton's
cache on disk. Nothing of this package but `why_not` and `load` may be imported where Triton is not
installed. With TRITON_INTERPRET=1 the same code runs on a CPU, for tests.
"""

import importlib
import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .kernels import TritonKernels

__all__ = ["load", "why_not"]


def why_not(device: torch.device) -> str | None:
    """Say why the Triton kernels can't be used here, or return None if they can."""
    if device.type != "cuda" and not _interpreted():
        return f"the Triton kernels compute on CUDA, not on {device.type}"
    try:
        load().probe(device)
    # Triton has exceptions of its own for each of its parts, and needs a C compiler and a driver.
    except Exception as error:  # noqa: BLE001
        return f"Triton does not work here ({str(error).partition(chr(10))[0]})"
    return None


def load() -> "TritonKernels":
    """Return the kernels.

    Raises:
        ImportError: Triton is not installed.
    """
    kernels: TritonKernels = importlib.import_module(f"{__name__}.kernels").TritonKernels()
    return kernels


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
