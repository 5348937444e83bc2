"""Attention in plain torch operations, on any device: the yardstick of the other backends.

A chunk of several queries is computed per sequence, in tiles of rows that bound the score matrix
and skip the keys which no row of the tile sees. Sequences with one query (decodes) are computed
together, in buckets of like length. Scores are rounded where transformers' eager attention rounds
them. The shape suffixes are those of `base`, and W a window, G query heads per KV head.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.batch import GroupLayout, Ints, PackedBatch

from .base import AttentionBackend

TILE_ROWS = 128
# Most that padding may add to the keys of a bucket, and most keys in one.
PADDING = 1.25
BUCKET_KEYS = 2048


@dataclass(frozen=True, slots=True)
class _Tile:
    """Some queries of a chunk.

    Attributes:
        rows: among the chunk's queries.
        keys: that any of them sees, among the chunk's keys; the last len(rows) are their own.
        outgrown: the first of the rows that no longer sees the first of the keys.
    """

    rows: slice
    keys: slice
    outgrown: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The queries of one sequence: its rows of the batch, and [1, L] slots of the keys they see."""

    rows: slice
    slots: Tensor
    tiles: tuple[_Tile, ...]


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Sequences with one query each: rows [b] of the batch, slots [b, L], padding [b, 1, 1, L]."""

    rows: Tensor
    slots: Tensor
    padding: Tensor


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """A step's work for one layer group.

    `later` and `earlier` [tile, tile] tell which keys (columns) come after a row's own, and which
    do not.
    """

    chunks: tuple[_Chunk, ...]
    buckets: tuple[_Bucket, ...]
    later: Tensor
    earlier: Tensor


@dataclass(frozen=True, slots=True)
class _Scores:
    """What becomes of q · k before it is masked."""

    scale: float
    softcap: float | None

    def capped(self, scores: Tensor) -> Tensor:
        """Scale and cap in place, rounding after each operation."""
        if self.softcap is None:
            return scores.mul_(self.scale)
        return scores.mul_(self.scale).div_(self.softcap).tanh_().mul_(self.softcap)


class ReferenceAttention(AttentionBackend):
    """Plain torch on any device."""

    name = "reference"
    page_size = 16

    def plan(
        self,
        batch: PackedBatch,
        layout: GroupLayout,
        page_size: int,
        window: int | None,
        device: torch.device,
    ) -> ReferencePlan:
        """Cut the step into tiles and buckets."""
        starts = np.cumsum(batch.query_lens) - batch.query_lens
        decodes = np.flatnonzero(batch.query_lens == 1)
        chunks = np.flatnonzero(batch.query_lens > 1)
        planner = _Planner(batch, layout, page_size, window, device)
        later = torch.ones(TILE_ROWS, TILE_ROWS, dtype=torch.bool, device=device).triu_(1)
        return ReferencePlan(
            chunks=tuple(planner.chunk(int(s), int(starts[s])) for s in chunks),
            buckets=tuple(planner.bucket(some, starts[some]) for some in planner.split(decodes)),
            later=later,
            earlier=later.logical_not(),
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
        """Attend chunk by chunk, then bucket by bucket."""
        out_TNH = torch.empty_like(q_TNH, memory_format=torch.contiguous_format)
        scores = _Scores(scale, softcap)
        for chunk in plan.chunks:
            k_KLH = _gather(k_pages, chunk.slots)[0]
            v_KLH = _gather(v_pages, chunk.slots)[0]
            q_tNH, out_tNH = q_TNH[chunk.rows], out_TNH[chunk.rows]
            for tile in chunk.tiles:
                k_KlH, v_KlH = k_KLH[:, tile.keys], v_KLH[:, tile.keys]
                out_tNH[tile.rows] = _attend_tile(
                    q_tNH[tile.rows], k_KlH, v_KlH, tile.outgrown, plan, scores
                )
        for bucket in plan.buckets:
            q_bNH = q_TNH.index_select(0, bucket.rows)
            out_TNH[bucket.rows] = _attend_bucket(q_bNH, k_pages, v_pages, bucket, scores)
        return out_TNH


@dataclass(frozen=True, slots=True)
class _Planner:
    batch: PackedBatch
    layout: GroupLayout
    page_size: int
    window: int | None
    device: torch.device

    def chunk(self, sequence: int, first_row: int) -> _Chunk:
        """Tile one sequence's queries."""
        count = int(self.batch.query_lens[sequence])
        end = int(self.batch.key_lens[sequence])
        begin = end - count
        origin = int(self._first_seen(np.array(begin)))
        return _Chunk(
            rows=slice(first_row, first_row + count),
            slots=self._tensor(self._slots(np.array([sequence]), np.arange(origin, end)[None, :])),
            tiles=tuple(
                self._tile(row, min(row + TILE_ROWS, count), begin, origin)
                for row in range(0, count, TILE_ROWS)
            ),
        )

    def _tile(self, row: int, stop: int, begin: int, origin: int) -> _Tile:
        """Take rows [row, stop) of a chunk at position `begin`, whose keys are from `origin` on."""
        first = int(self._first_seen(np.array(begin + row)))
        outgrown = stop - row if self.window is None else first + self.window - begin - row
        return _Tile(slice(row, stop), slice(first - origin, begin + stop - origin), outgrown)

    def split(self, decodes: Ints) -> list[Ints]:
        """Split sequences with one query into buckets of like length, the longest first."""
        lengths = self._seen(decodes)
        order = np.argsort(-lengths, kind="stable")
        buckets: list[Ints] = []
        start = 0
        total = 0
        for i, length in enumerate(lengths[order].tolist()):
            total += length
            padded = (i + 1 - start) * lengths[order[start]]
            if i > start and padded > min(BUCKET_KEYS, PADDING * total):
                buckets.append(decodes[order[start:i]])
                start, total = i, length
        if decodes.size:
            buckets.append(decodes[order[start:]])
        return buckets

    def bucket(self, sequences: Ints, rows: Ints) -> _Bucket:
        """Lay out the slots of one bucket, the longest sequence first."""
        lengths = self._seen(sequences)[:, None]
        within = np.arange(lengths[0, 0])
        # Padding repeats a sequence's newest key: it exists, so it is finite, and weighs nothing.
        positions = self.batch.key_lens[sequences, None] - lengths + np.minimum(within, lengths - 1)
        return _Bucket(
            rows=self._tensor(rows),
            slots=self._tensor(self._slots(sequences, positions)),
            padding=self._tensor((within >= lengths)[:, None, None, :]),
        )

    def _first_seen(self, positions: Ints) -> Ints:
        """Return the first key that the query at each position sees."""
        window = self.window
        return np.zeros_like(positions) if window is None else np.maximum(positions - window + 1, 0)

    def _seen(self, sequences: Ints) -> Ints:
        """Return how many keys the last query of each sequence sees."""
        ends = self.batch.key_lens[sequences]
        return ends - self._first_seen(ends - 1)

    def _slots(self, sequences: Ints, positions: Ints) -> Ints:
        """Return the slots of positions [b, L] of b sequences."""
        tables = [self.layout.tables[s] for s in sequences]
        stacked = np.zeros((len(tables), max(len(table) for table in tables)), dtype=np.int64)
        for row, table in zip(stacked, tables, strict=True):
            row[: len(table)] = table
        pages, offsets = np.divmod(
            positions - self.layout.first_key[sequences, None], self.page_size
        )
        return np.take_along_axis(stacked, pages, axis=1) * self.page_size + offsets

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _gather(pages: Tensor, slots_bL: Tensor) -> Tensor:
    """Copy keys or values out of their slots, head by head: [b, K, L, H].

    Matmuls over the cache's own order, where a head's keys are not side by side, are ten times
    slower on a CPU.
    """
    kv_heads, size = pages.shape[-2:]
    heads = torch.arange(kv_heads, device=pages.device)[:, None]
    rows_bKL = slots_bL[:, None, :] * kv_heads + heads
    return pages.view(-1, size).index_select(0, rows_bKL.flatten()).view(*rows_bKL.shape, size)


def _attend_tile(
    q_tNH: Tensor, k_KLH: Tensor, v_KLH: Tensor, outgrown: int, plan: ReferencePlan, scores: _Scores
) -> Tensor:
    rows, heads, size = q_tNH.shape
    kv_heads, keys, _ = k_KLH.shape
    groups = heads // kv_heads
    q_KMH = q_tNH.view(rows, kv_heads, groups, size).permute(1, 2, 0, 3).reshape(kv_heads, -1, size)
    s_KML = scores.capped(torch.bmm(q_KMH, k_KLH.transpose(1, 2)))
    s_KGtL = s_KML.view(kv_heads, groups, rows, keys)
    s_KGtL[..., keys - rows :].masked_fill_(plan.later[:rows, :rows], -torch.inf)
    if outgrown < rows:
        # Row outgrown + i sees none of the first i + 1 keys.
        left = rows - outgrown
        s_KGtL[..., outgrown:, :left].masked_fill_(plan.earlier[:left, :left], -torch.inf)
    out_KMH = torch.bmm(s_KML.softmax(-1), v_KLH)
    return out_KMH.view(kv_heads, groups, rows, size).permute(2, 0, 1, 3).flatten(1, 2)


def _attend_bucket(
    q_bNH: Tensor, k_pages: Tensor, v_pages: Tensor, bucket: _Bucket, scores: _Scores
) -> Tensor:
    count, heads, size = q_bNH.shape
    k_bKLH = _gather(k_pages, bucket.slots)
    kv_heads = k_bKLH.shape[1]
    q_bKGH = q_bNH.view(count, kv_heads, heads // kv_heads, size)
    s_bKGL = scores.capped(torch.matmul(q_bKGH, k_bKLH.transpose(2, 3)))
    s_bKGL.masked_fill_(bucket.padding, -torch.inf)
    return torch.matmul(s_bKGL.softmax(-1), _gather(v_pages, bucket.slots)).flatten(1, 2)
