"""The arrays that attention kernels want of a step."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import Ints
from model.transfer import to_device


def cumulative(lengths: Ints, dtype: npt.DTypeLike, device: torch.device) -> Tensor:
    """Return where each sequence begins, and where the last one ends: [S + 1]."""
    ends = np.zeros(len(lengths) + 1, dtype=dtype)
    np.cumsum(lengths, out=ends[1:])
    return to_device(ends, device)


def block_table(tables: tuple[Ints, ...], device: torch.device, least: int = 0) -> Tensor:
    """Stack page tables to int32 [S, longest or `least`].

    Entries past a sequence's keys are not read.
    """
    width = max(least, *(len(table) for table in tables))
    stacked = np.zeros((len(tables), width), dtype=np.int32)
    for row, table in zip(stacked, tables, strict=True):
        row[: len(table)] = table
    return to_device(stacked, device)


def next_power_of_two(count: int) -> int:
    """Return the least power of two that is no less than a count of one or more."""
    return 1 << (count - 1).bit_length()
