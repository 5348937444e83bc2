"""Attention by the flash-attn package (FlashAttention-2, Dao 2023, arXiv:2307.08691) on CUDA."""

import importlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from model.batch import GroupLayout, PackedBatch
from model.errors import ParameterError

from .base import AttentionBackend
from .tables import block_table, cumulative, next_power_of_two

# FlashAttention-2 reads paged keys in blocks of a multiple of this.
PAGE_MULTIPLE = 256
MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class FlashPlan:
    """Arguments of flash_attn_varlen_func that all layers of one group share in a step."""

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    block_table: Tensor
    window_size: tuple[int, int]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what differs between steps of decodes with the same `key`."""
        return self.cu_seqlens_k, self.block_table

    def key(self) -> Hashable:
        """Return what a captured call can't be told anew."""
        return len(self.cu_seqlens_q), self.max_seqlen_k, self.window_size

    def renewed(self) -> Self:
        """Return itself: nothing is made of the tensors' values."""
        return self


class FlashAttention(AttentionBackend):
    """flash_attn_varlen_func over page tables.

    Raises:
        ParameterError: it can't be used with this device, dtype or head size, or is not installed.
    """

    name = "flash"
    page_size = PAGE_MULTIPLE
    reads_whole_pages = True
    has_static_plans = True

    def __init__(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        if device.type != "cuda":
            raise ParameterError(
                f"attention='flash' needs a CUDA device, not {device.type}; use 'reference'"
            )
        if dtype != torch.bfloat16:
            raise ParameterError("attention='flash' needs dtype 'bfloat16'; or use 'reference'")
        if head_dim % 8 or head_dim > MAX_HEAD_DIM:
            raise ParameterError(
                f"attention='flash' needs a head_dim that is a multiple of 8 up to {MAX_HEAD_DIM}, "
                f"not {head_dim}; use 'reference'"
            )
        try:
            self._varlen = importlib.import_module("flash_attn").flash_attn_varlen_func
        except (ImportError, AttributeError) as error:
            raise ParameterError(
                f"attention='flash' needs flash-attn 2.8 or newer ({error}): install "
                "gemmaray[flash], or use 'reference'"
            ) from error

    def plan(
        self,
        batch: PackedBatch,
        layout: GroupLayout,
        page_size: int,
        window: int | None,
        device: torch.device,
    ) -> FlashPlan:
        """Build the lengths and the block table; see `FlashPlan`.

        The longest length of steps that are all decodes is rounded up to a power of two, so that
        there are few kinds of them.
        """
        if page_size % PAGE_MULTIPLE:
            raise ParameterError(
                f"page_size={page_size}: attention='flash' needs a multiple of {PAGE_MULTIPLE}"
            )
        # The keys of a sliding group begin at its first live page. Queries and keys are aligned at
        # their ends, so where they begin does not matter to the mask.
        key_lens = batch.key_lens - layout.first_key
        longest = int(key_lens.max())
        # A window that nobody leaves is no window: the kernel then packs the heads of a group.
        slides = window is not None and longest > window
        if len(batch.token_ids) == len(batch.query_lens):
            longest = next_power_of_two(longest)
        return FlashPlan(
            cu_seqlens_q=cumulative(batch.query_lens, np.int32, device),
            cu_seqlens_k=cumulative(key_lens, np.int32, device),
            max_seqlen_q=int(batch.query_lens.max()),
            max_seqlen_k=longest,
            block_table=block_table(layout.tables, device, -(-longest // page_size)),
            window_size=(window - 1, 0) if slides and window is not None else (-1, -1),
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
        """Attend in one kernel call."""
        out_TNH: Tensor = self._varlen(
            q_TNH,
            k_pages,
            v_pages,
            cu_seqlens_q=plan.cu_seqlens_q,
            cu_seqlens_k=plan.cu_seqlens_k,
            max_seqlen_q=plan.max_seqlen_q,
            max_seqlen_k=plan.max_seqlen_k,
            softmax_scale=scale,
            causal=True,
            window_size=plan.window_size,
            softcap=softcap or 0.0,
            block_table=plan.block_table,
        )
        return out_TNH

    def probe(self, device: torch.device, head_dim: int) -> None:
        """Run one query: a build without soft cap or this head size, or for another GPU, fails.

        Raises:
            RuntimeError: the build can't do what Gemma 2 needs here.
        """
        q_TNH = torch.zeros(1, 2, head_dim, dtype=torch.bfloat16, device=device)
        pages = torch.zeros(1, PAGE_MULTIPLE, 1, head_dim, dtype=torch.bfloat16, device=device)
        one = cumulative(np.ones(1, dtype=np.int64), np.int32, device)
        two = cumulative(np.full(1, 2, dtype=np.int64), np.int32, device)
        table = torch.zeros(1, 1, dtype=torch.int32, device=device)
        plan = FlashPlan(one, two, 1, 2, table, window_size=(0, 0))
        self.attend(q_TNH, pages, pages, plan, scale=1.0, softcap=50.0).sum().item()
