"""The layouts as lists of parts: transformers' own, gemma_pytorch's and Flax's.

Dimensions: V vocabulary, D hidden, F intermediate, N heads, K key heads, H head size.
"""

from collections.abc import Iterator, Mapping

import torch

from model.config import ModelConfig
from model.errors import CheckpointError
from model.gemma2 import Gemma2
from model.parallel import TensorParallel

from .parts import Meta, Part, Shape
from .sizes import Dimensions

# Rows that Google's Flax checkpoints have after the vocabulary's; nothing ever reads them.
FLAX_SPARE_ROWS = 128
FREQUENCIES = "freqs_cis"  # a table that gemma_pytorch saves and makes anew

_FLAX_NORMS = {
    "pre_attention_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def our_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The shapes of every tensor that the engine reads, under transformers' names."""
    model = Gemma2(config, TensorParallel(0, 1), torch.float32, torch.device("meta"))
    return {shard.name: shard.full_shape for shard in model.shards()}


def transformers_parts(config: ModelConfig) -> list[Part]:
    """Transformers' own layout: every tensor is a whole one."""
    return [Part(name, shape, name, shape) for name, shape in our_shapes(config).items()]


def gemma_pytorch_parts(config: ModelConfig) -> list[Part]:
    """The layout of gemma_pytorch: transformers' but for the embedding's name and q, k, v.

    These are one `qkv_proj.weight` [(N + 2K)·H, D]. Rotary halves are in the same order.
    https://github.com/google/gemma_pytorch/blob/main/gemma/model.py
    """
    shapes = our_shapes(config)
    return [_pytorch_part(name, shape, shapes) for name, shape in shapes.items()]


def _pytorch_part(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Part:
    if name == "model.embed_tokens.weight":
        return Part(name, shape, "embedder.weight", shape)
    prefix, which = name[: -len("q_proj.weight")], name[-len("q_proj.weight") :]
    order = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    if which not in order or not prefix.endswith(".self_attn."):
        return Part(name, shape, name, shape)
    rows = [shapes[prefix + projection][0] for projection in order]
    start = sum(rows[: order.index(which)])
    whole = (sum(rows), shape[1])
    return Part(name, shape, f"{prefix}qkv_proj.weight", whole, (slice(start, start + shape[0]),))


def gemma_pytorch_dimensions(metas: Mapping[str, Meta], place: str) -> Dimensions:
    """Read the dimensions off a gemma_pytorch checkpoint.

    Raises:
        CheckpointError: what they are read from is missing.
    """
    layer = "model.layers.0"
    try:
        hidden, query_rows = metas[f"{layer}.self_attn.o_proj.weight"].shape
        all_rows, _ = metas[f"{layer}.self_attn.qkv_proj.weight"].shape
        intermediate, _ = metas[f"{layer}.mlp.gate_proj.weight"].shape
        layers = sum(name.endswith(".qkv_proj.weight") for name in metas)
    except (KeyError, ValueError):
        raise _no_gemma(place, "gemma_pytorch") from None
    return Dimensions(layers, hidden, intermediate, query_rows, (all_rows - query_rows) // 2)


def flax_parts(config: ModelConfig, *, rows: int, swapped_gating: bool) -> list[Part]:
    """The layout of Google's Flax Gemma 2, under names like `layer_0.attn.q_einsum`.

    https://github.com/google-deepmind/gemma/blob/main/gemma/gm/nn/_modules.py

    Args:
        config: of the model.
        rows: of the embedding, of which the vocabulary's are the first.
        swapped_gating: `mlp.gating_einsum` is [2, F, D] instead of [2, D, F].
    """
    V, D = config.vocab_size, config.hidden_size
    embedding = Part(
        "model.embed_tokens.weight",
        (V, D),
        "embedder.input_embedding",
        (rows, D),
        (slice(0, V),),
    )
    layers = [
        part
        for i in range(config.num_hidden_layers)
        for part in _flax_layer(config, i, swapped_gating=swapped_gating)
    ]
    return [embedding, *layers, Part("model.norm.weight", (D,), "final_norm.scale", (D,))]


def _flax_layer(config: ModelConfig, layer: int, *, swapped_gating: bool) -> Iterator[Part]:
    ours, theirs = f"model.layers.{layer}", f"layer_{layer}"
    D, F, H = config.hidden_size, config.intermediate_size, config.head_dim
    N, K = config.num_attention_heads, config.num_key_value_heads
    attention = (f"{ours}.self_attn", f"{theirs}.attn")
    if N == K:  # then its code keeps all three in one tensor
        yield from _flax_heads(attention, "qkv_einsum", ("q", "k", "v"), (3, N, D, H))
    else:
        yield Part(
            f"{ours}.self_attn.q_proj.weight",
            (N * H, D),
            f"{theirs}.attn.q_einsum",
            (N, D, H),
            axes=(0, 2, 1),
        )
        yield from _flax_heads(attention, "kv_einsum", ("k", "v"), (2, K, D, H))
    yield Part(
        f"{ours}.self_attn.o_proj.weight",
        (D, N * H),
        f"{theirs}.attn.attn_vec_einsum",
        (N, H, D),
        axes=(2, 0, 1),
    )
    for i, which in enumerate(("gate", "up")):
        yield Part(
            f"{ours}.mlp.{which}_proj.weight",
            (F, D),
            f"{theirs}.mlp.gating_einsum",
            (2, F, D) if swapped_gating else (2, D, F),
            (i,),
            () if swapped_gating else (1, 0),
        )
    yield Part(f"{ours}.mlp.down_proj.weight", (D, F), f"{theirs}.mlp.linear", (F, D), (), (1, 0))
    for their_norm, our_norm in _FLAX_NORMS.items():
        yield Part(f"{ours}.{our_norm}.weight", (D,), f"{theirs}.{their_norm}.scale", (D,))


def _flax_heads(
    attention: tuple[str, str], name: str, order: tuple[str, ...], whole: Shape
) -> Iterator[Part]:
    """Projections that are stacked [S, heads, D, H]."""
    ours, theirs = attention
    _, heads, D, H = whole
    for i, which in enumerate(order):
        shape = (heads * H, D)
        yield Part(f"{ours}.{which}_proj.weight", shape, f"{theirs}.{name}", whole, (i,), (0, 2, 1))


def flax_dimensions(metas: Mapping[str, Meta], place: str) -> Dimensions:
    """Read the dimensions off a Flax checkpoint, under names like `layer_0.attn.q_einsum`.

    Raises:
        CheckpointError: what they are read from is missing.
    """
    try:
        N, H, D = metas["layer_0.attn.attn_vec_einsum"].shape
        F, _ = metas["layer_0.mlp.linear"].shape
        layers = sum(name.endswith(".attn.attn_vec_einsum") for name in metas)
        both = metas.get("layer_0.attn.kv_einsum")
        K = N if both is None else both.shape[1]
    except (KeyError, ValueError, IndexError):
        raise _no_gemma(place, "Flax") from None
    return Dimensions(layers, D, F, N * H, K * H)


def has_swapped_gating(metas: Mapping[str, Meta], config: ModelConfig, place: str) -> bool:
    """Whether gate and up are stored as [F, D], as in 9B and 27B, instead of [D, F], as in 2B.

    Raises:
        CheckpointError: D and F are the same, so that shapes don't tell.
    """
    if config.hidden_size == config.intermediate_size:
        raise CheckpointError(
            f"{place}: hidden and intermediate size are both {config.hidden_size}, so the layout "
            "of mlp/gating_einsum can't be told by its shape; such a model can't be converted"
        )
    meta = metas.get("layer_0.mlp.gating_einsum")
    return meta is not None and meta.shape[1:] == (config.intermediate_size, config.hidden_size)


def _no_gemma(place: str, layout: str) -> CheckpointError:
    return CheckpointError(f"{place} holds no Gemma 2 in the layout of {layout}")
