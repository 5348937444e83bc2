"""The arrays that attention kernels want of a step."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import Ints, PackedBatch, ranges
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


class Tiles(NamedTuple):
    """Runs of queries, each of one sequence.

    Attributes:
        owner: [b] the sequence.
        row: [b] of the step, of the first query.
        height: [b] queries.
        position: [b] of the first query.
    """

    owner: Ints
    row: Ints
    height: Ints
    position: Ints


def cut(batch: PackedBatch, sequences: Ints, height: int) -> Tiles:
    """Cut some sequences' queries into tiles of at most `height`, in their order."""
    counts = -(-batch.query_lens[sequences] // height)
    owner = np.repeat(sequences, counts)
    within = ranges(np.zeros_like(counts), counts) * height
    starts = np.cumsum(batch.query_lens) - batch.query_lens
    lengths = batch.query_lens[owner]
    return Tiles(
        owner=owner,
        row=starts[owner] + within,
        height=np.minimum(lengths - within, height),
        position=batch.key_lens[owner] - lengths + within,
    )


def next_power_of_two(count: int) -> int:
    """Return the least power of two that is no less than a count of one or more."""
    return 1 << (count - 1).bit_length()
