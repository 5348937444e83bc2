"""Attention by the compiled library: bfloat16 on CPUs with AVX-512."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.batch import GroupLayout, PackedBatch
from model.errors import ParameterError
from model.kernels.native import load, why_not

from .base import AttentionBackend
from .shared import shared_keys
from .tables import block_table, cumulative

MAX_HEAD_DIM = 256
HEAD_MULTIPLE = 32
# With less than this, reading keys again costs no more than gathering queries (benchmarks/LOG.md).
LEAST_QUERIES, LEAST_SAVED = 3, 128


@dataclass(frozen=True, slots=True)
class NativePlan:
    """What the kernel wants to know of a step, for one layer group.

    Attributes:
        query_starts: int64 [S + 1].
        key_lens: int64 [S].
        first_keys: int64 [S] position of the first slot of each page table.
        tables: int32 [S, longest].
        shared_starts: int64 [G + 1], as those of `SharedKeys`.
        shared_queries: int64 [M, 2].
        shared_keys: int64 [G, 2].
        page_size: tokens per page.
        window: keys that a query sees; 0 for all.
    """

    query_starts: Tensor
    key_lens: Tensor
    first_keys: Tensor
    tables: Tensor
    shared_starts: Tensor
    shared_queries: Tensor
    shared_keys: Tensor
    page_size: int
    window: int


class NativeAttention(AttentionBackend):
    """The kernel of attention.cpp.

    Raises:
        ParameterError: it can't be used with this device, dtype or head size.
    """

    name = "native"
    page_size = 16

    def __init__(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        obstacle = why_not(device, dtype)
        if obstacle is None and (head_dim % HEAD_MULTIPLE or head_dim > MAX_HEAD_DIM):
            obstacle = f"head_dim is {head_dim}, not a multiple of {HEAD_MULTIPLE} up to 256"
        if obstacle is not None:
            raise ParameterError(f"attention='native': {obstacle}; use 'reference'")
        library = load()
        assert not isinstance(library, str)
        self._library = library

    def plan(
        self,
        batch: PackedBatch,
        layout: GroupLayout,
        page_size: int,
        window: int | None,
        device: torch.device,
    ) -> NativePlan:
        """Stack the page tables, and find what sequences share; see `NativePlan`."""
        shared = shared_keys(
            batch, layout, page_size, least_queries=LEAST_QUERIES, least_saved=LEAST_SAVED
        )
        return NativePlan(
            query_starts=cumulative(batch.query_lens, np.int64, device),
            key_lens=torch.from_numpy(np.ascontiguousarray(batch.key_lens)),
            first_keys=torch.from_numpy(np.ascontiguousarray(layout.first_key)),
            tables=block_table(layout.tables, device),
            shared_starts=torch.from_numpy(shared.starts),
            shared_queries=torch.from_numpy(shared.queries),
            shared_keys=torch.from_numpy(shared.keys),
            page_size=page_size,
            window=window or 0,
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
        """Attend in one call, its threads over sequences, KV heads and runs of queries."""
        tokens, heads, size = q_TNH.shape
        out_TNH = torch.empty(tokens, heads, size, dtype=q_TNH.dtype)
        assert q_TNH.stride(2) == 1
        assert q_TNH.stride(1) == size
        self._library.attend(
            q_TNH.data_ptr(),
            q_TNH.stride(0),
            k_pages.data_ptr(),
            v_pages.data_ptr(),
            out_TNH.data_ptr(),
            heads,
            k_pages.shape[2],
            size,
            plan.page_size,
            plan.query_starts.data_ptr(),
            plan.key_lens.data_ptr(),
            plan.first_keys.data_ptr(),
            plan.tables.data_ptr(),
            plan.tables.shape[1],
            plan.key_lens.shape[0],
            plan.shared_starts.data_ptr(),
            plan.shared_keys.shape[0],
            plan.shared_queries.data_ptr(),
            plan.shared_keys.data_ptr(),
            plan.window,
            scale,
            softcap or 0.0,
            torch.get_num_threads(),
        )
        return out_TNH
