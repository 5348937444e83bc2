"""The kernels as a compiled library: bfloat16 and int8 on CPUs with AVX-512.

`src/` is C++ with no dependency but OpenMP; `build.py` compiles it when the package is built or
installed, and `library.py` opens the result. Without a compiler then, or without such a CPU now,
there is no library, and `why_not` says so.
"""

import torch

from .kernels import NativeKernels
from .library import Library, load

__all__ = ["Library", "NativeKernels", "load", "why_not"]


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say why the native kernels can't be used, or return None if they can."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return f"the native kernels compute bfloat16 on a CPU, not {dtype} on {device.type}"
    library = load()
    return library if isinstance(library, str) else None
