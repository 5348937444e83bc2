"""What a model takes before it is loaded: its weights, its KV cache, and what fits in that."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, prod

import torch

from model import attention
from model.config import ComputeDType, ModelConfig
from model.engine.core import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS
from model.engine.memory import count_pages, free_bytes, kv_share, layer_windows, most_pages
from model.gemma2 import Gemma2
from model.hybrid_cache import HybridCache
from model.kv_cache import KVCache
from model.parallel import TensorParallel, heads_of_rank
from model.params import Quantization

from .errors import JobError
from .job import Resources
from .placement import DEFAULT_SEQUENCES, Placement

GIB = 1 << 30

# Whose page size counts for a GPU that is not here.
_ON_CUDA: Mapping[str, type[attention.AttentionBackend]] = {
    "auto": attention.TritonAttention,
    "triton": attention.TritonAttention,
    "flash": attention.FlashAttention,
    "flex": attention.FlexAttention,
    "reference": attention.ReferenceAttention,
}


@dataclass(frozen=True, slots=True)
class Weights:
    """The size of a model.

    Attributes:
        parameters: of the whole model.
        per_token: parameters that every token is multiplied with: the layers' matrices.
        per_draw: parameters that the last hidden state is multiplied with, for each token drawn or
            each row classified: the head.
        rank_bytes: of the weights on one rank.
    """

    parameters: int
    per_token: int
    per_draw: int
    rank_bytes: int


@dataclass(frozen=True, slots=True)
class CacheRoom:
    """The KV cache of one rank.

    Attributes:
        token_bytes: of one token, in all layers, while it is within the window.
        page_tokens: tokens per page, of one layer group.
        page_bytes: bytes per page.
        pages: that the memory has room for.
        max_sequences: sequences that an engine runs at most.
        by_length: how many sequences of so many tokens are in flight at a time.
        sequence_bytes: that one sequence of so many tokens holds.
        windowless_bytes: that it would hold if sliding layers remembered everything.
    """

    token_bytes: int
    page_tokens: int
    page_bytes: int
    pages: int
    max_sequences: int
    by_length: dict[int, int]
    sequence_bytes: dict[int, int]
    windowless_bytes: dict[int, int]

    @property
    def total_bytes(self) -> int:
        """Bytes of all pages."""
        return self.pages * self.page_bytes


def weigh(
    config: ModelConfig,
    dtype: ComputeDType,
    quantization: Quantization,
    ranks: int,
    adapters: int = 0,
) -> Weights:
    """Add up a model's tensors.

    Args:
        config: of the model.
        dtype: that it computes in.
        quantization: of the layers' matrices.
        ranks: that share it.
        adapters: numbers in the matrices of adapters that are kept beside it. Each rank has one of
            each two matrices whole, so they count in full.

    Raises:
        ParameterError: it can't be cut into so many ranks, or not with this quantization.
    """
    kind: torch.dtype = getattr(torch, dtype)
    tp, meta = TensorParallel(0, ranks), torch.device("meta")
    shards = list(Gemma2(replace(config, quantization="none"), tp, kind, meta).shards())
    matrices = [shard for shard in shards if shard.name.endswith("_proj.weight")]
    kept = Gemma2(replace(config, quantization=quantization), tp, kind, meta)
    outputs = config.vocab_size if config.architecture == "causal_lm" else len(config.labels)
    return Weights(
        parameters=sum(prod(shard.full_shape) for shard in shards),
        per_token=sum(prod(shard.full_shape) for shard in matrices),
        per_draw=outputs * config.hidden_size,
        rank_bytes=sum(shard.target.nbytes for shard in kept.shards()) + adapters * kind.itemsize,
    )


def gpus_here() -> int:
    """Count this machine's GPUs."""
    return torch.cuda.device_count()


def memory_here(device: str) -> int | None:
    """Give the free bytes of this machine's first such device; None if it has none."""
    if device == "cuda" and not torch.cuda.is_available():
        return None
    return free_bytes(torch.device(device))


def cache_room(
    config: ModelConfig,
    dtype: ComputeDType,
    resources: Resources,
    placement: Placement,
    weights: Weights,
    memory: int,
    lengths: tuple[int, ...],
) -> CacheRoom:
    """Work out the KV cache as an engine would size it.

    Args:
        config: of the model.
        dtype: of keys and values.
        resources: what the job asks for.
        placement: what it runs on.
        weights: of the model.
        memory: bytes of a GPU, or of a node without one.
        lengths: of sequences, in tokens, for which to say how many are in flight.

    Raises:
        JobError: the weights do not fit.
        ParameterError: not one sequence fits beside them.
    """
    device = torch.device(placement.device)
    ranks = 1 if device.type == "cuda" else placement.most * resources.tensor_parallel
    free = memory - ranks * weights.rank_bytes
    if free <= 0:
        raise JobError(
            f"the weights take {weights.rank_bytes * ranks / GIB:.1f} GiB, and there are "
            f"{memory / GIB:.1f} GiB: raise tensor_parallel, lower replicas, or quantize"
        )
    page = resources.page_size or _page_size(config, dtype, resources, device)
    kv_heads = heads_of_rank(config, 0, resources.tensor_parallel).num_kv
    page_bytes = KVCache.bytes_per_page(config, page, kv_heads, getattr(torch, dtype))
    windows = layer_windows(config)
    sizing = HybridCache(0, page, windows)
    chunk = resources.max_batch_tokens or (
        CUDA_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS
    )
    sequences = resources.max_sequences or DEFAULT_SEQUENCES
    longest = config.model_len(resources.max_model_len)
    pages = count_pages(
        placement.kv_cache_bytes or kv_share(free, device),
        page_bytes,
        most_pages(sizing, sequences, longest, chunk),
        sizing.demand(min(chunk, longest), chunk, ()),
    )
    stated = [length for length in lengths if length]
    return CacheRoom(
        token_bytes=ceil(page_bytes / page) * len(windows),
        page_tokens=page,
        page_bytes=page_bytes,
        pages=pages,
        max_sequences=sequences,
        by_length={
            length: min(sequences, pages // sizing.demand(length, chunk, ())) for length in stated
        },
        sequence_bytes={length: sizing.held(length) * page_bytes for length in stated},
        windowless_bytes={
            length: sizing.held(length, windows=False) * page_bytes for length in stated
        },
    )


def _page_size(
    config: ModelConfig, dtype: ComputeDType, resources: Resources, device: torch.device
) -> int:
    if device.type == "cuda" and not torch.cuda.is_available():
        return _ON_CUDA.get(resources.attention, attention.TritonAttention).page_size
    kind: torch.dtype = getattr(torch, dtype)
    return attention.choose(resources.attention, device, kind, config.head_dim).page_size
