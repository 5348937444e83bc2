"""Attention by torch's FlexAttention (Dong et al. 2024, arXiv:2412.05496), over the paged cache.

The queries of a step are cut into tiles, each of one sequence: tiles of one row for decodes, of 128
for the rest. A tile is one entry of the kernel's batch, the cache one long sequence of keys, and
each tile's pages are its list of key blocks. Which keys of a page a query sees is a matter of their
positions, which the mask finds through [tile, page] positions of the pages' first keys.

torch.compile makes a kernel for each shape. So that there are few shapes, the number of tiles is
rounded up to a power of two, and the list of pages to a multiple of 64 (Gemma 2's whole context);
window and positions are tensors. Tiles that were added have no pages.

Shape suffixes are those of `base`, and b tiles, t rows of one, W pages of its list.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from model.batch import GroupLayout, Ints, PackedBatch
from model.errors import ParameterError
from model.transfer import to_device

from .base import AttentionBackend
from .tables import cut, next_power_of_two

PAGE_SIZE = 128
TILE_ROWS = 128
PAGES_MULTIPLE = 64
NO_WINDOW = 1 << 30
# Numbers of tiles times the two kinds of them; torch gives up at 8.
MOST_SHAPES = 64


@dataclass(slots=True)
class FlexTiles:
    """Tiles of one height.

    Attributes:
        rows_bt: of the step, int64; those past a tile's end repeat its last.
        kept: which of the b * t rows exist, int64; None is all of them, in the step's order.
        first_b: position of each tile's first query.
        counts_b: pages of its list; 0 for tiles that fill a bucket.
        pages_bW: the list; past its end its last page again.
        starts_bW: position of the first key of each page in the list, -1 where there is none.
        window: [1]
        first_keys: [b, pages of the cache] position of each page's first key, -1 for those that are
            not in the list; made when the cache is first seen.
    """

    rows_bt: Tensor
    kept: Tensor | None
    first_b: Tensor
    counts_b: Tensor
    pages_bW: Tensor
    starts_bW: Tensor
    window: Tensor
    first_keys: Tensor | None = None

    def known(self, num_pages: int) -> Tensor:
        """Return `first_keys`, the same for all layers of a group."""
        if self.first_keys is None:
            shape = (len(self.pages_bW), num_pages)
            nowhere = torch.full(shape, -1, dtype=torch.int32, device=self.pages_bW.device)
            self.first_keys = nowhere.scatter_(1, self.pages_bW.long(), self.starts_bW)
        return self.first_keys


@dataclass(frozen=True, slots=True)
class FlexPlan:
    """The tiles of a step, for one layer group."""

    parts: tuple[FlexTiles, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what differs between steps of decodes with the same `key`."""
        return tuple(
            tensor
            for part in self.parts
            for tensor in (part.first_b, part.counts_b, part.pages_bW, part.starts_bW)
        )

    def key(self) -> Hashable:
        """Return the shapes."""
        return tuple((*part.rows_bt.shape, part.pages_bW.shape[1]) for part in self.parts)

    def renewed(self) -> Self:
        """Return the same tensors without what was made of their values."""
        return replace(self, parts=tuple(replace(p, first_keys=None) for p in self.parts))


class FlexAttention(AttentionBackend):
    """FlexAttention, compiled on CUDA; as written, and slow, on a CPU.

    Raises:
        ParameterError: it can't be used with this head size.
    """

    name = "flex"
    page_size = PAGE_SIZE
    reads_whole_pages = True
    has_static_plans = True

    def __init__(self, device: torch.device, head_dim: int) -> None:
        if head_dim < 16 or head_dim & (head_dim - 1):
            raise ParameterError(
                f"attention='flex' needs a head_dim that is a power of two from 16 on, not "
                f"{head_dim}; use 'reference'"
            )
        self._attend: Callable[..., Tensor] = attend_tiles
        if device.type == "cuda":
            self._attend = torch.compile(attend_tiles, dynamic=False, fullgraph=True)

    def plan(
        self,
        batch: PackedBatch,
        layout: GroupLayout,
        page_size: int,
        window: int | None,
        device: torch.device,
    ) -> FlexPlan:
        """Cut the step into tiles; see `FlexTiles`."""
        tiler = _Tiler(batch, layout, page_size, window or NO_WINDOW, device)
        decodes = np.flatnonzero(batch.query_lens == 1)
        longer = np.flatnonzero(batch.query_lens > 1)
        parts = [tiler.tiles(some, rows) for some, rows in ((decodes, 1), (longer, TILE_ROWS))]
        return FlexPlan(tuple(part for part in parts if part is not None))

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
        """Attend tile by tile; one kernel for all decodes and one for all else."""
        out_TNH = torch.empty_like(q_TNH, memory_format=torch.contiguous_format)
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):  # noqa: SLF001
            for part in plan.parts:
                tiles = self._attend(
                    q_TNH[part.rows_bt],
                    k_pages,
                    v_pages,
                    part.known(len(k_pages)),
                    (part.first_b, part.counts_b, part.pages_bW, part.window),
                    scale,
                    softcap,
                )
                rows = tiles.flatten(0, 1)
                if part.kept is None:
                    out_TNH = rows[: len(q_TNH)]
                else:
                    out_TNH[part.rows_bt.flatten()[part.kept]] = rows[part.kept]
        return out_TNH

    def probe(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        """Compile and run one decode.

        Raises:
            RuntimeError: torch can't compile here (no Triton, no compiler, no such head size).
        """
        one = np.ones(1, dtype=np.int64)
        nothing = np.zeros(1, dtype=np.int64)
        layout = GroupLayout(nothing, (nothing,), nothing)
        batch = PackedBatch(nothing, nothing, one, one, {"full_attention": layout})
        q_TNH = torch.zeros(1, 2, head_dim, dtype=dtype, device=device)
        pages = torch.zeros(1, PAGE_SIZE, 1, head_dim, dtype=dtype, device=device)
        plan = self.plan(batch, layout, PAGE_SIZE, 1, device)
        self.attend(q_TNH, pages, pages, plan, scale=1.0, softcap=50.0).sum().item()


def attend_tiles(
    q_btNH: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    first_keys: Tensor,
    lists: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Attend with tiles of queries, giving [b, t, N, H]. What torch.compile is given.

    Args:
        q_btNH: the tiles.
        k_pages: [P, B, K, H]
        v_pages: likewise.
        first_keys: [b, P], see `FlexTiles`.
        lists: first_b, counts_b, pages_bW and window, see `FlexTiles`.
        scale: factor of q · k.
        softcap: of the scores, or None.
    """
    first_b, counts_b, pages_bW, window = lists
    num_pages, page_size = k_pages.shape[:2]

    def sees(tile: Tensor, _head: Tensor, row: Tensor, slot: Tensor) -> Tensor:
        start = first_keys[tile, slot // page_size]
        distance = first_b[tile] + row - start - slot % page_size
        return (start >= 0) & (distance >= 0) & (distance < window[0])

    def capped(score: Tensor, _tile: Tensor, _head: Tensor, _row: Tensor, _slot: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    mask = BlockMask.from_kv_blocks(
        counts_b[:, None, None],
        pages_bW[:, None, None],
        BLOCK_SIZE=(TILE_ROWS, page_size),
        mask_mod=sees,
        seq_lengths=(q_btNH.shape[1], num_pages * page_size),
        compute_q_blocks=False,
    )
    out_bNtH: Tensor = flex_attention(
        q_btNH.transpose(1, 2),
        k_pages.flatten(0, 1).transpose(0, 1)[None],
        v_pages.flatten(0, 1).transpose(0, 1)[None],
        score_mod=capped,
        block_mask=mask,
        scale=scale,
        enable_gqa=True,
    )
    return out_bNtH.transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _Tiler:
    batch: PackedBatch
    layout: GroupLayout
    page_size: int
    window: int
    device: torch.device

    def tiles(self, sequences: Ints, height: int) -> FlexTiles | None:
        """Cut some sequences' queries into tiles of this many rows; None if there are none."""
        if not len(sequences):
            return None
        owner, starts, heights, first = cut(self.batch, sequences, height)
        row = np.arange(height)
        rows = starts[:, None] + np.minimum(row, heights[:, None] - 1)
        spans = self._spans(owner, first, first + heights - 1)
        width = -(-int(spans[:, 1].max()) // PAGES_MULTIPLE) * PAGES_MULTIPLE
        pages, key_starts = self._lists(owner, spans, width)
        alone = height == 1 and len(owner) == len(self.batch.query_lens)
        put = partial(self._padded, size=next_power_of_two(len(owner)))
        return FlexTiles(
            rows_bt=put(rows, np.int64),
            kept=None if alone else self._kept(row < heights[:, None]),
            first_b=put(first),
            counts_b=put(spans[:, 1]),
            pages_bW=put(pages),
            starts_bW=put(key_starts, fill=-1),
            window=to_device(np.array([self.window], dtype=np.int32), self.device),
        )

    def _spans(self, owner: Ints, first: Ints, last: Ints) -> Ints:
        """Return [b, 2]: which page of its owner's table each tile sees first, and how many."""
        origin = self.layout.first_key[owner]
        begin = (np.maximum(first - self.window + 1, 0) - origin) // self.page_size
        return np.stack([begin, (last - origin) // self.page_size + 1 - begin], axis=1)

    def _lists(self, owner: Ints, spans: Ints, width: int) -> tuple[Ints, Ints]:
        """Return the tiles' pages [b, W] and the positions of the pages' first keys."""
        within = np.minimum(np.arange(width), spans[:, 1:] - 1) + spans[:, :1]
        starts = self.layout.first_key[owner, None] + within * self.page_size
        pages = np.stack(
            [self.layout.tables[s][places] for s, places in zip(owner, within, strict=True)]
        )
        return pages, starts

    def _kept(self, exists: np.ndarray[Any, Any]) -> Tensor:
        return to_device(np.flatnonzero(exists), self.device)

    def _padded(
        self, values: Ints, dtype: type[np.integer[Any]] = np.int32, *, size: int, fill: int = 0
    ) -> Tensor:
        """Lengthen an array to `size` tiles and send it."""
        padded = np.full((size, *values.shape[1:]), fill, dtype=dtype)
        padded[: len(values)] = values
        return to_device(padded, self.device)
