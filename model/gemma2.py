"""Gemma 2: blocks, backbone and the three heads, on one rank of a tensor-parallel group.

The arithmetic follows transformers' `models/gemma2/modeling_gemma2.py` (eager attention), to the
rounding. Shape suffixes: T tokens of the step, R rows of them, D hidden, N query heads and K KV
heads of this rank, H head size, V vocabulary, L labels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .attention import AttentionBackend
from .batch import LayerKind, PackedBatch
from .checkpoint import Shard
from .config import ModelConfig
from .errors import TaskError
from .kernels import Kernels
from .kv_cache import KVCache
from .layers import (
    ColumnParallelLinear,
    GatedMLP,
    LabelHead,
    RMSNorm,
    Rotary,
    RowParallelLinear,
    VocabParallelEmbedding,
    weight_bytes,
)
from .parallel import TensorParallel, heads_of_rank
from .params import Quantization
from .transfer import to_device


class LayerGroupPlan(NamedTuple):
    """What all layers of one kind share in a step: the backend's plan, and [T] slots to write."""

    attention: Any
    slots_T: Tensor


class TailPlan(NamedTuple):
    """The rows that the last layer computes beyond their keys, and the backend's plan for them."""

    rows_R: Tensor
    attention: Any


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Attention of one step: a plan for each kind of layer, and for the last one's tails if any."""

    groups: Mapping[LayerKind, LayerGroupPlan]
    tail: TailPlan | None


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers share in a step."""

    angles: tuple[Tensor, Tensor]
    cache: KVCache
    groups: Mapping[LayerKind, LayerGroupPlan]
    backend: AttentionBackend


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
        self.head_dim = config.head_dim
        self.scale = config.query_pre_attn_scalar**-0.5
        self.softcap = config.attn_logit_softcapping
        heads = heads_of_rank(config, tp.rank, tp.size)
        self.num_query, self.num_kv = heads.num_query, heads.num_kv
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
        )
        self.o_proj = RowParallelLinear(
            q_width,
            config.hidden_size,
            q_part,
            tp,
            bias=config.attention_bias,
            dtype=dtype,
            device=device,
        )

    def prepare(self, kernels: Kernels, quantization: Quantization) -> None:
        """Hand the loaded weights over."""
        self._kernels = kernels
        self.qkv_proj.prepare(kernels, quantization)
        self.o_proj.prepare(kernels, quantization)

    def forward(self, x_TD: Tensor, step: _Step, tail: TailPlan | None) -> Tensor:
        """Write the step's keys and values, attend; [T, D] is whole on every rank.

        With a tail, only its rows attend: [R, D].
        """
        plan, slots_T = step.groups[self.kind]
        q_TNH = self._kernels.rotate_and_store(
            self.qkv_proj(x_TD), step.angles, step.cache, self.layer_index, slots_T
        )
        if tail is not None:
            if not len(tail.rows_R):  # the middle of prompts: their keys are all that is wanted
                return x_TD[:0]
            q_TNH, plan = q_TNH[tail.rows_R], tail.attention
        k_pages, v_pages = step.cache.layer(self.layer_index)
        out_TNH = step.backend.attend(
            q_TNH, k_pages, v_pages, plan, scale=self.scale, softcap=self.softcap
        )
        out_TD: Tensor = self.o_proj(out_TNH.flatten(1))
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
            config.hidden_size, config.intermediate_size, tp, dtype=dtype, device=device
        )
        self.post_feedforward_layernorm = norm()

    def prepare(self, kernels: Kernels, quantization: Quantization) -> None:
        """Hand the loaded weights over."""
        for module in self.children():
            if isinstance(module, RMSNorm):
                module.prepare(kernels)
        self.self_attn.prepare(kernels, quantization)
        self.mlp.prepare(kernels, quantization)

    def forward(
        self,
        x_TD: Tensor,
        normed_TD: Tensor,
        step: _Step,
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
            x_TD = x_TD[tail.rows_R]
        x_TD, normed_TD = self.post_attention_layernorm.add(
            x_TD, branch_TD, self.pre_feedforward_layernorm
        )
        branch_TD = self.mlp(normed_TD)
        return self.post_feedforward_layernorm.add(x_TD, branch_TD, following)

    def shards(self, prefix: str) -> Iterator[Shard]:
        """Yield what the checkpoint has under this prefix."""
        for name, module in self.named_children():
            assert isinstance(module, RMSNorm | Gemma2Attention | GatedMLP)
            yield from module.shards(f"{prefix}.{name}")


class Gemma2(nn.Module):
    """One rank's Gemma 2, with the head that its checkpoint has.

    Parameters are allocated and left for `checkpoint.load` to fill, through `shards`; `prepare`
    then gets it ready to compute.

    Raises:
        ParameterError: the model can't be cut into this many ranks.
    """

    def __init__(
        self, config: ModelConfig, tp: TensorParallel, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self._kernels: Kernels
        self.config = config
        self.tp = tp
        self.dtype = dtype
        self.device = device
        # Rounded, as in training: sqrt(3072) = 55.4256 is 55.5 in bfloat16. See
        # https://github.com/huggingface/transformers/pull/29402
        self.embed_scale = torch.tensor(config.hidden_size**0.5, dtype=dtype).item()
        vocab = (config.vocab_size, config.hidden_size, tp)
        self.embed_tokens = VocabParallelEmbedding(*vocab, dtype=dtype, device=device)
        self.rotary = Rotary(config.head_dim, config.rope_theta, device)
        self.layers = nn.ModuleList(
            Gemma2Layer(config, i, tp, dtype, device) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, device=device)
        self.lm_head: VocabParallelEmbedding | None = None
        self.score_head: LabelHead | None = None
        if config.architecture != "causal_lm":
            has_bias = config.architecture == "token_classification"
            self.score_head = LabelHead(
                config.hidden_size, len(config.labels), bias=has_bias, dtype=dtype, device=device
            )
        elif config.tie_word_embeddings:
            self.lm_head = self.embed_tokens
        else:
            self.lm_head = VocabParallelEmbedding(*vocab, dtype=dtype, device=device)

    def prepare(self, kernels: Kernels, quantization: Quantization = "none") -> None:
        """Hand the loaded weights to the kernels that compute with them, before the first step.

        Args:
            kernels: of this device and dtype.
            quantization: of the layers' linears; the embedding and the heads stay as they are.
        """
        self._kernels = kernels
        for layer in self._blocks():
            layer.prepare(kernels, quantization)
        self.norm.prepare(kernels)
        self.embed_tokens.prepare(kernels)
        if self.lm_head is not None and self.lm_head is not self.embed_tokens:
            self.lm_head.prepare(kernels)
        if self.score_head is not None:
            self.score_head.prepare(kernels)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on this rank, in the form in which they are kept."""
        return weight_bytes(self)

    def _blocks(self) -> list[Gemma2Layer]:
        return cast("list[Gemma2Layer]", list(self.layers))

    def plan(
        self,
        batch: PackedBatch,
        backend: AttentionBackend,
        page_size: int,
        device: torch.device | None = None,
    ) -> StepPlan:
        """Prepare one step's attention, on the model's device or another."""
        device = device or self.device

        def attention(part: PackedBatch, kind: LayerKind) -> Any:
            window = self.config.sliding_window if kind == "sliding_attention" else None
            return backend.plan(part, part.groups[kind], page_size, window, device)

        groups = {
            kind: LayerGroupPlan(attention(batch, kind), to_device(layout.slots, device))
            for kind, layout in batch.groups.items()
        }
        if batch.tail_lens is None:
            return StepPlan(groups, None)
        rows, kind = batch.tail_rows, self.config.layer_types[-1]
        plan = attention(batch.tails(kind), kind) if len(rows) else None
        return StepPlan(groups, TailPlan(to_device(rows, device), plan))

    @torch.inference_mode()
    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        cache: KVCache,
        plan: StepPlan,
        backend: AttentionBackend,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the backbone over the packed tokens of one step.

        Args:
            token_ids_T: int64, each below vocab_size.
            positions_T: int64, of each token in its sequence.
            cache: keys and values; the step's own are added to it.
            plan: what `plan` returned.
            backend: that made the plan.
            collect: is given every hidden state [T, D]: the scaled embeddings, the output of each
                layer but the last, and the result.

        Returns:
            [T, D] hidden states after the final norm, in the model's dtype, whole on every rank; if
            the batch has tails, [R, D] of their rows.
        """
        angles = self.rotary.angles(positions_T, self._kernels.angles_dtype or self.dtype)
        step = _Step(angles, cache, plan.groups, backend)
        x_TD: Tensor = self.embed_tokens(token_ids_T, self.embed_scale)
        blocks = self._blocks()
        norms = [layer.input_layernorm for layer in blocks] + [self.norm]
        normed_TD: Tensor = norms[0](x_TD)
        for layer, following in zip(blocks, norms[1:], strict=True):
            if collect is not None:
                collect.append(x_TD.clone())
            tail = plan.tail if layer is blocks[-1] else None
            x_TD, normed_TD = layer(x_TD, normed_TD, step, following, tail)
        if collect is not None:
            collect.append(normed_TD)
        return normed_TD

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Return the soft-capped logits of this rank's tokens, [R, V / ranks] in the model's dtype.

        No rank ever holds another one's: `model.sampling` draws from them as they lie.

        Raises:
            TaskError: the checkpoint has a classification head instead.
        """
        if self.lm_head is None:
            raise TaskError(
                f"a {self.config.architecture} checkpoint has no language-model head; "
                "use a causal LM checkpoint to generate or to score texts"
            )
        return self.lm_head.project(hidden_RD, self.config.final_logit_softcapping)

    @torch.inference_mode()
    def score(self, hidden_RD: Tensor) -> Tensor:
        """Return the classification head's outputs [R, L] in the model's dtype, on every rank.

        Raises:
            TaskError: the checkpoint has no classification head.
        """
        if self.score_head is None:
            raise TaskError(
                "a causal LM checkpoint has no classification head; use a sequence or token "
                "classification checkpoint, or score labels by their likelihood"
            )
        logits_RL: Tensor = self.score_head(hidden_RD)
        return logits_RL

    def shards(self) -> Iterator[Shard]:
        """Yield every tensor that the checkpoint must have, and where this rank's part goes."""
        yield from self.embed_tokens.shards("model.embed_tokens")
        for i, layer in enumerate(self._blocks()):
            yield from layer.shards(f"model.layers.{i}")
        yield from self.norm.shards("model.norm")
        if self.lm_head is not None and self.lm_head is not self.embed_tokens:
            yield from self.lm_head.shards("lm_head")
        if self.score_head is not None:
            yield from self.score_head.shards("score")

    def ignorable(self) -> set[str]:
        """Name the tensors that a checkpoint may have though this model does not use them."""
        own_head = self.lm_head is not None and self.lm_head is not self.embed_tokens
        return set() if own_head else {"lm_head.weight"}


def _widen(heads: slice, head_dim: int) -> slice:
    """Turn a range of heads into the range of their features."""
    return slice(heads.start * head_dim, heads.stop * head_dim)
