"""The arithmetic around attention: one interface, several implementations.

`PlainKernels` is plain torch, for any device and dtype, and the yardstick of the others.
`NativeKernels` runs bfloat16 on CPUs with AVX-512 through the compiled library of this package,
and `TritonKernels` on CUDA.
"""

import logging

import torch

from model.errors import ParameterError
from model.params import KernelsName

from . import triton
from .base import GatedLinear, Kernels, Linear, TokenTable
from .native import NativeKernels, why_not
from .plain import PlainKernels

__all__ = [
    "GatedLinear",
    "Kernels",
    "Linear",
    "NativeKernels",
    "PlainKernels",
    "TokenTable",
    "choose",
]


def choose(name: KernelsName, device: torch.device, dtype: torch.dtype) -> Kernels:
    """Return the kernels of this name; for "auto", the fastest that work here.

    Raises:
        ParameterError: the ones that were named can't be used here.
    """
    if name == "plain":
        return PlainKernels()
    on_cuda = device.type == "cuda"
    if name == "triton" or (name == "auto" and on_cuda):
        obstacle = triton.why_not(device)
        if obstacle is None:
            return triton.load()
    else:
        obstacle = why_not(device, dtype)
        if obstacle is None:
            return NativeKernels()
    if name != "auto":
        raise ParameterError(f"kernels={name!r}: {obstacle}; use 'auto' or 'plain'")
    if on_cuda or dtype == torch.bfloat16:
        logging.getLogger(__name__).warning(
            "computing in plain torch, which is slower: %s", obstacle
        )
    return PlainKernels()
