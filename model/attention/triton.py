"""Attention by the Triton programs of this repository, on CUDA.

Unlike FlexAttention it is compiled once for all batches, and reads no slot that no query sees.
"""

import importlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from model.batch import GroupLayout, Ints, PackedBatch
from model.errors import ParameterError
from model.kernels import triton
from model.transfer import to_device

from .base import AttentionBackend
from .tables import block_table, cut, next_power_of_two

PAGE_SIZE = 64
# Keys that a program reads at once; a block lies in one page.
MOST_KEYS, LEAST_KEYS = 64, 16
TILE_QUERIES = 64
# Rows of a tile at least, of which a query has one for each head of its group.
LEAST_ROWS = 16
# Keys of one part of a decode; a multiple of every page size.
CHUNK = 512
NO_WINDOW = 1 << 30


class TritonTiles(NamedTuple):
    """Tiles of one kind.

    Attributes:
        tiles: int32 [tiles, 4]: sequence, first row, rows, position of the first query.
        queries: of a tile at most.
        parts: into which a tile's keys are cut at most.
    """

    tiles: Tensor
    queries: int
    parts: int


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """What the programs want to know of a step, for one layer group.

    Attributes:
        groups: the tiles of decodes, and of everything else.
        tables: int32 [S, longest].
        first_keys: int32 [S] position of the first slot of each page table.
        page_size: tokens per page.
        window: keys that a query sees.
    """

    groups: tuple[TritonTiles, ...]
    tables: Tensor
    first_keys: Tensor
    page_size: int
    window: int

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what differs between steps of decodes with the same `key`."""
        return self.tables, self.first_keys, *(group.tiles for group in self.groups)

    def key(self) -> Hashable:
        """Return what a captured call can't be told anew."""
        return self.tables.shape, tuple((len(tiles), parts) for tiles, _, parts in self.groups)

    def renewed(self) -> Self:
        """Return itself: nothing is made of the tensors' values."""
        return self


class TritonAttention(AttentionBackend):
    """The programs of `model.kernels.triton.attention`.

    Raises:
        ParameterError: they can't be used with this device, dtype or head size.
    """

    name = "triton"
    page_size = PAGE_SIZE
    has_static_plans = True

    def __init__(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        obstacle = triton.why_not(device)
        if obstacle is None and device.type == "cuda" and dtype != torch.bfloat16:
            # Exact float32 products leave the tensor cores, and tiles of them the shared memory.
            obstacle = f"it computes bfloat16, not {dtype}"
        if obstacle is None and (head_dim < 16 or head_dim > 256 or head_dim & (head_dim - 1)):
            obstacle = f"head_dim is {head_dim}, not a power of two from 16 to 256"
        if obstacle is not None:
            raise ParameterError(f"attention='triton': {obstacle}; use 'reference'")
        self._programs = importlib.import_module("model.kernels.triton.attention")

    def plan(
        self,
        batch: PackedBatch,
        layout: GroupLayout,
        page_size: int,
        window: int | None,
        device: torch.device,
    ) -> TritonPlan:
        """Cut the step into tiles.

        Lengths of decodes are rounded up to powers of two where they decide on shapes, so that
        steps of few kinds come of them.
        """
        if page_size % LEAST_KEYS or CHUNK % page_size:
            raise ParameterError(
                f"page_size={page_size}: attention='triton' needs a power of two from "
                f"{LEAST_KEYS} to {CHUNK}"
            )
        window = window or NO_WINDOW
        groups = []
        decodes = np.flatnonzero(batch.query_lens == 1)
        if len(decodes):
            parts = _parts(batch.key_lens[decodes], window)
            groups.append(TritonTiles(_tiles(batch, decodes, 1, device), 1, parts))
        longer = np.flatnonzero(batch.query_lens > 1)
        if len(longer):
            tiles = _tiles(batch, longer, TILE_QUERIES, device)
            groups.append(TritonTiles(tiles, TILE_QUERIES, 1))
        return TritonPlan(
            groups=tuple(groups),
            tables=block_table(layout.tables, device, _chunks(batch.key_lens) * CHUNK // page_size),
            first_keys=to_device(layout.first_key.astype(np.int32), device),
            page_size=page_size,
            window=window,
        )

    def attend(
        self,
        q_TNH: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        plan: Any,
        *,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        """Attend with one launch for all decodes (two if their keys are cut), one for all else."""
        tokens, heads, size = q_TNH.shape
        kv_heads = k_pages.shape[2]
        out_TNH = q_TNH.new_empty(tokens, heads, size)
        for tiles, queries, parts in plan.groups:
            shape = (len(tiles), heads, parts)
            whole = parts == 1
            target = out_TNH if whole else q_TNH.new_empty(*shape, size, dtype=torch.float)
            sums = q_TNH.new_empty(shape if not whole else 1, dtype=torch.float)
            rows = max(LEAST_ROWS, next_power_of_two(queries * (heads // kv_heads)))
            self._programs.attend[(len(tiles), kv_heads, parts)](
                q_TNH,
                k_pages,
                v_pages,
                target,
                sums,
                tiles,
                plan.tables,
                plan.first_keys,
                q_TNH.stride(0),
                plan.tables.stride(0),
                plan.window,
                scale,
                CAP=softcap or 0.0,
                GROUP=heads // kv_heads,
                KV_HEADS=kv_heads,
                SIZE=size,
                PAGE=plan.page_size,
                CHUNK=CHUNK,
                PARTS=parts,
                BLOCK_M=rows,
                BLOCK_N=min(plan.page_size, MOST_KEYS),
                num_warps=4 if rows <= LEAST_ROWS else 8,
                num_stages=3,
            )
            if not whole:
                self._programs.combine[(len(tiles), heads)](
                    target,
                    sums,
                    out_TNH,
                    tiles,
                    HEADS=heads,
                    SIZE=size,
                    PARTS=parts,
                    BLOCK=next_power_of_two(parts),
                )
        return out_TNH

    def probe(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        """Compile and run a decode and a chunk; raises what Triton raises where it can't."""
        lengths, nothing = np.array([1, 2]), np.zeros(2, dtype=np.int64)
        layout = GroupLayout(nothing, (nothing[:1], nothing[:1]), nothing)
        batch = PackedBatch(nothing, nothing, lengths, lengths, {"full_attention": layout})
        q_TNH = torch.zeros(3, 2, head_dim, dtype=dtype, device=device)
        pages = torch.zeros(1, PAGE_SIZE, 1, head_dim, dtype=dtype, device=device)
        plan = self.plan(batch, layout, PAGE_SIZE, None, device)
        self.attend(q_TNH, pages, pages, plan, scale=1.0, softcap=50.0).sum().item()


def _tiles(batch: PackedBatch, sequences: Ints, height: int, device: torch.device) -> Tensor:
    """Cut some sequences' queries into tiles of `height`: [tiles, 4], see `TritonTiles`.

    Those that see the most keys come first: a long one begun last would run alone in the end.
    """
    tiles = np.stack(cut(batch, sequences, height), axis=1)
    longest_first = np.argsort(-tiles[:, 3], kind="stable")
    return to_device(tiles[longest_first].astype(np.int32), device)


def _parts(key_lens: Ints, window: int) -> int:
    """Return how many parts some decodes are cut into.

    A window that does not begin where a part does reaches into one more.
    """
    return min(_chunks(key_lens), -(-window // CHUNK) + 1)


def _chunks(key_lens: Ints) -> int:
    """Return how many parts of CHUNK positions the longest of some sequences has, rounded up.

    To a power of four: each number is compiled for, and captured with each number of decodes.
    """
    count = next_power_of_two(-(-int(key_lens.max()) // CHUNK))
    return count if count.bit_length() % 2 else 2 * count
