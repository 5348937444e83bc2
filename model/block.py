"""The blocks of Gemma 2: attention and MLP, each normed before and after; what a step gives them.

The arithmetic follows transformers' `models/gemma2/modeling_gemma2.py` (eager attention). Shape
suffixes: T tokens of the step, R rows of them, D hidden, N query heads and K KV heads of this rank,
H head size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .attention import AttentionBackend
from .batch import LayerKind, Segment
from .checkpoint import Shard
from .config import ModelConfig
from .kernels import Kernels
from .kv_cache import KVCache
from .layers import ColumnParallelLinear, GatedMLP, RMSNorm, RowParallelLinear
from .lora import AdapterSet
from .parallel import TensorParallel, heads_of_rank
from .params import Quantization


class LayerGroupPlan(NamedTuple):
    """What all layers of one kind share in a step: the backend's plan, and [T] slots to write."""

    attention: Any
    slots_T: Tensor


class TailPlan(NamedTuple):
    """The rows that the last layer computes beyond their keys, and the backend's plan for them.

    Segments are those of [0, R).
    """

    rows_R: Tensor
    attention: Any
    segments: Sequence[Segment] = ()


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Attention of one step: a plan for each kind of layer, and for the last one's tails if any.

    Beside it, the rows of [0, T) that have an adapter.
    """

    groups: Mapping[LayerKind, LayerGroupPlan]
    tail: TailPlan | None
    segments: Sequence[Segment] = ()


@dataclass(frozen=True, slots=True)
class StepContext:
    """What all layers share in a step."""

    angles: tuple[Tensor, Tensor]
    cache: KVCache
    groups: Mapping[LayerKind, LayerGroupPlan]
    backend: AttentionBackend
    segments: Sequence[Segment] = ()


class Gemma2Attention(nn.Module):
    """Grouped-query attention of one layer, with this rank's heads."""

    def __init__(
        self,
        config: ModelConfig,
        layer_index: int,
        tp: TensorParallel,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._kernels: Kernels
        self.layer_index = layer_index
        self.kind = config.layer_types[layer_index]
        self.scale = config.query_pre_attn_scalar**-0.5
        self.softcap = config.attn_logit_softcapping
        heads = heads_of_rank(config, tp.rank, tp.size)
        q_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        q_part = _widen(heads.query, config.head_dim)
        kv = (kv_width, _widen(heads.kv, config.head_dim))
        self.qkv_proj = ColumnParallelLinear(
            config.hidden_size,
            {"q_proj": (q_width, q_part), "k_proj": kv, "v_proj": kv},
            bias=config.attention_bias,
            dtype=dtype,
            device=device,
            stored=config.quantization,
        )
        self.o_proj = RowParallelLinear(
            q_width,
            config.hidden_size,
            q_part,
            tp,
            bias=config.attention_bias,
            dtype=dtype,
            device=device,
            stored=config.quantization,
        )

    def prepare(self, kernels: Kernels, quantization: Quantization) -> None:
        """Hand the loaded weights over."""
        self._kernels = kernels
        self.qkv_proj.prepare(kernels, quantization)
        self.o_proj.prepare(kernels, quantization)

    def attach(self, adapters: AdapterSet, prefix: str) -> None:
        """Take what adapters change of this prefix."""
        self.qkv_proj.attach(adapters, prefix)
        self.o_proj.attach(adapters, f"{prefix}.o_proj")

    def forward(self, x_TD: Tensor, step: StepContext, tail: TailPlan | None) -> Tensor:
        """Write the step's keys and values, attend; [T, D] is whole on every rank.

        With a tail, only its rows attend: [R, D].
        """
        plan, slots_T = step.groups[self.kind]
        qkv_TM = self.qkv_proj(x_TD, step.segments)
        q_TNH = self._kernels.rotate_and_store(
            qkv_TM, step.angles, step.cache, self.layer_index, slots_T
        )
        if tail is not None:
            if not len(tail.rows_R):  # the middle of prompts: their keys are all that is wanted
                return x_TD[:0]
            q_TNH, plan = q_TNH.index_select(0, tail.rows_R), tail.attention
        k_pages, v_pages = step.cache.layer(self.layer_index)
        out_TNH = step.backend.attend(
            q_TNH, k_pages, v_pages, plan, scale=self.scale, softcap=self.softcap
        )
        segments = step.segments if tail is None else tail.segments
        out_TD: Tensor = self.o_proj(out_TNH.flatten(1), segments)
        return out_TD

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        yield from self.qkv_proj.shards(prefix)
        yield from self.o_proj.shards(f"{prefix}.o_proj")


class Gemma2Layer(nn.Module):
    """Attention and MLP, each normed before and after: the branch is whole before its norm."""

    def __init__(
        self,
        config: ModelConfig,
        layer_index: int,
        tp: TensorParallel,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, device=device)

        self.input_layernorm = norm()
        self.self_attn = Gemma2Attention(config, layer_index, tp, dtype, device)
        self.post_attention_layernorm = norm()
        self.pre_feedforward_layernorm = norm()
        self.mlp = GatedMLP(
            config.hidden_size,
            config.intermediate_size,
            tp,
            dtype=dtype,
            device=device,
            stored=config.quantization,
        )
        self.post_feedforward_layernorm = norm()

    def prepare(self, kernels: Kernels, quantization: Quantization) -> None:
        """Hand the loaded weights over."""
        for module in self.children():
            if isinstance(module, RMSNorm):
                module.prepare(kernels)
        self.self_attn.prepare(kernels, quantization)
        self.mlp.prepare(kernels, quantization)

    def attach(self, adapters: AdapterSet, prefix: str) -> None:
        """Take what adapters change of this prefix."""
        self.self_attn.attach(adapters, f"{prefix}.self_attn")
        self.mlp.attach(adapters, f"{prefix}.mlp")

    def forward(
        self,
        x_TD: Tensor,
        normed_TD: Tensor,
        step: StepContext,
        following: RMSNorm,
        tail: TailPlan | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states [T, D] after this layer, and those normed by `following`.

        Args:
            x_TD: hidden states before it; may be overwritten.
            normed_TD: x after this layer's first norm.
            step: what the layers share.
            following: the norm that comes next, of another layer or the last.
            tail: what is computed beyond keys and values, if not all: [R, D] are returned then.
        """
        branch_TD = self.self_attn(normed_TD, step, tail)
        if tail is not None:
            x_TD = x_TD.index_select(0, tail.rows_R)
        x_TD, normed_TD = self.post_attention_layernorm.add(
            x_TD, branch_TD, self.pre_feedforward_layernorm
        )
        branch_TD = self.mlp(normed_TD, step.segments if tail is None else tail.segments)
        return self.post_feedforward_layernorm.add(x_TD, branch_TD, following)

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        for name, module in self.named_children():
            assert isinstance(module, RMSNorm | Gemma2Attention | GatedMLP)
            yield from module.shards(f"{prefix}.{name}")


def _widen(heads: slice, head_dim: int) -> slice:
    """Turn a range of heads into the range of their features."""
    return slice(heads.start * head_dim, heads.stop * head_dim)
