"""Gemma 2: backbone and the three heads, on one rank of a tensor-parallel group.

Shape suffixes: T tokens of the step, R rows of them, D hidden, V vocabulary, L labels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .attention import AttentionBackend
from .batch import LayerKind, PackedBatch, Segment
from .block import AttentionPlan, Gemma2Layer, LayerGroupPlan, StepContext, TailPlan
from .checkpoint import Shard
from .config import ModelConfig
from .errors import TaskError
from .heads import LabelHead, VocabParallelEmbedding
from .kernels import Kernels
from .kv_cache import KVCache
from .layers import ColumnParallelLinear, RMSNorm, Rotary, RowParallelLinear
from .lora import Adapter, AdapterSet
from .parallel import TensorParallel
from .params import Quantization
from .transfer import to_device


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

    def prepare(
        self,
        kernels: Kernels,
        quantization: Quantization = "none",
        check: Callable[[], None] | None = None,
    ) -> None:
        """Hand the loaded weights to the kernels that compute with them, before the first step.

        Args:
            kernels: of this device and dtype.
            quantization: of the layers' linears; the embedding and the heads stay as they are.
            check: called before each layer; what it raises ends the preparation.
        """
        self._kernels = kernels
        for layer in self._blocks():
            if check is not None:
                check()
            layer.prepare(kernels, quantization)
        self.norm.prepare(kernels)
        self.embed_tokens.prepare(kernels)
        if self.lm_head is not None and self.lm_head is not self.embed_tokens:
            self.lm_head.prepare(kernels)
        if self.score_head is not None:
            self.score_head.prepare(kernels)

    def attach(self, adapters: Sequence[Adapter], check: Callable[[], None] | None = None) -> None:
        """Keep adapters beside the weights; a batch gives their numbers, by their places here.

        Args:
            adapters: read for this model.
            check: called before each layer; what it raises ends it.
        """
        kept = AdapterSet(adapters, self._kernels, self.dtype, self.device)
        for i, layer in enumerate(self._blocks()):
            if check is not None:
                check()
            layer.attach(kept, f"model.layers.{i}")
        if self.score_head is not None:
            self.score_head.attach(kept, "score")

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on this rank, in the form in which they are kept."""
        return _weight_bytes(self)

    def _blocks(self) -> list[Gemma2Layer]:
        return cast("list[Gemma2Layer]", list(self.layers))

    def plan(
        self,
        batch: PackedBatch,
        backend: AttentionBackend,
        page_size: int,
        device: torch.device | None = None,
    ) -> AttentionPlan:
        """Prepare one step's attention, on the model's device or another."""
        device = device or self.device

        def attention(part: PackedBatch, kind: LayerKind) -> Any:
            window = self.config.window(kind)
            return backend.plan(part, part.groups[kind], page_size, window, device)

        groups = {
            kind: LayerGroupPlan(attention(batch, kind), to_device(layout.slots, device))
            for kind, layout in batch.groups.items()
        }
        if batch.tail_lens is None:
            return AttentionPlan(groups, None, batch.segments)
        rows, kind = batch.tail_rows, self.config.layer_types[-1]
        plan = attention(batch.tails(kind), kind) if len(rows) else None
        tail = TailPlan(to_device(rows, device), plan, batch.tail_segments)
        return AttentionPlan(groups, tail, batch.segments)

    @torch.inference_mode()
    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        cache: KVCache,
        plan: AttentionPlan,
        backend: AttentionBackend,
        *,
        keep: Callable[[int, Tensor], None] | None = None,
        depth: int | None = None,
    ) -> Tensor:
        """Run the backbone over the packed tokens of one step.

        Args:
            token_ids_T: int64, each below vocab_size.
            positions_T: int64, of each token in its sequence.
            cache: keys and values; the step's own are added to it.
            plan: what `plan` returned.
            backend: that made the plan.
            keep: is given the number of each layer and its input [T, D], which is overwritten when
                it returns; that of layer 0 is the scaled embeddings.
            depth: how many layers to compute; None is all.

        Returns:
            [T, D] hidden states after the final norm, in the model's dtype, whole on every rank; if
            the batch has tails, [R, D] of their rows. With a depth, what comes out of its last
            layer.
        """
        angles = self.rotary.angles(positions_T, self._kernels.angles_dtype or self.dtype)
        step = StepContext(angles, cache, plan.groups, backend, plan.segments)
        x_TD: Tensor = self.embed_tokens(token_ids_T, self.embed_scale)
        blocks = self._blocks()
        norms = [layer.input_layernorm for layer in blocks] + [self.norm]
        normed_TD: Tensor = norms[0](x_TD)
        for number, layer in enumerate(blocks):
            if keep is not None:
                keep(number, x_TD)
            if number == depth:
                return x_TD
            tail = plan.tail if layer is blocks[-1] else None
            x_TD, normed_TD = layer(x_TD, normed_TD, step, norms[number + 1], tail)
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
    def score(self, hidden_RD: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """Return the classification head's outputs [R, L] in the model's dtype, on every rank.

        Args:
            hidden_RD: final hidden states.
            segments: of those rows, for adapters that bring a head of their own.

        Raises:
            TaskError: the checkpoint has no classification head.
        """
        if self.score_head is None:
            raise TaskError(
                "a causal LM checkpoint has no classification head; use a sequence or token "
                "classification checkpoint, or score labels by their likelihood"
            )
        logits_RL: Tensor = self.score_head(hidden_RD, segments)
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


def _weight_bytes(model: nn.Module) -> int:
    """Return the bytes that a prepared model's weights take, those that layers share once.

    Those of adapters are among them.
    """
    kept = (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding, LabelHead)
    packed = sum(module.nbytes for module in model.modules() if isinstance(module, kept))
    return packed + sum(parameter.nbytes for parameter in model.parameters())
