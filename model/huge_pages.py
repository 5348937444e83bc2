"""Large tensors on large pages of memory, so that reading them costs fewer address translations.

On a virtual machine each 4 KiB page that is read anew costs a walk through two page tables; weights
are read anew in every step.
"""

import ctypes
import mmap
import sys
from functools import cache

from torch import Tensor

HUGE_PAGE = 2 << 20


def prefer_huge_pages(tensor: Tensor) -> Tensor:
    """Ask for pages of 2 MiB behind a tensor that was just allocated and not written yet.

    A wish: where the system grants none, or the tensor is small or not on the CPU, nothing happens.

    Returns:
        The same tensor.
    """
    if tensor.device.type == "cpu" and sys.platform == "linux":
        start = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        stop = (tensor.data_ptr() + tensor.nbytes) // HUGE_PAGE * HUGE_PAGE
        if stop > start:
            _libc().madvise(start, stop - start, mmap.MADV_HUGEPAGE)
    return tensor


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
