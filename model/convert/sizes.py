"""The sizes in which Gemma 2 was published, and what a config.json says of each.

Shapes tell them apart. What shapes don't tell (`query_pre_attn_scalar` above all) is from the
published configs: https://github.com/google/gemma_pytorch/blob/main/gemma/config.py. There the
scalar of 2B and 9B is the head size, 256; some copies of 9B say 224 = 3584 / 16, which is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What the shapes of any layout tell.

    Attributes:
        layers: number of them.
        hidden: D.
        intermediate: F.
        query_rows: heads times head size, N·H.
        key_rows: key heads times head size, K·H.
    """

    layers: int
    hidden: int
    intermediate: int
    query_rows: int
    key_rows: int

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, hidden size {self.hidden}, intermediate size "
            f"{self.intermediate}, {self.query_rows} rows of queries, {self.key_rows} of keys"
        )


@dataclass(frozen=True, slots=True)
class Size:
    """One published size.

    Attributes:
        name: as it is called.
        dimensions: by which it is told.
        heads: N.
        key_heads: K.
        head_dim: H.
        query_scalar: scores are divided by its square root.
        swapped_gating: whether Flax stores gate and up as [F, D] instead of [D, F].
    """

    name: str
    dimensions: Dimensions
    heads: int
    key_heads: int
    head_dim: int
    query_scalar: int
    swapped_gating: bool


VOCABULARY = 256_000

SIZES = (
    Size("2B", Dimensions(26, 2304, 9216, 2048, 1024), 8, 4, 256, 256, swapped_gating=False),
    Size("9B", Dimensions(42, 3584, 14336, 4096, 2048), 16, 8, 256, 256, swapped_gating=True),
    Size("27B", Dimensions(46, 4608, 36864, 4096, 2048), 32, 16, 128, 144, swapped_gating=True),
)


def known(dimensions: Dimensions) -> Size | None:
    """The published size of these dimensions, if there is one."""
    return next((size for size in SIZES if size.dimensions == dimensions), None)


def published_config(dimensions: Dimensions, vocabulary: int, place: str) -> dict[str, Any]:
    """Write the config.json of the published size of these dimensions.

    Args:
        dimensions: of the weights.
        vocabulary: tokens.
        place: what to call the weights in a message.

    Raises:
        CheckpointError: no published size has them.
    """
    size = known(dimensions)
    if size is None:
        raise CheckpointError(
            f"{place} has {dimensions}: none of Gemma 2's {', '.join(s.name for s in SIZES)}, and "
            "shapes do not tell the rest; say --config with the config.json of this model"
        )
    return dict(_CONSTANTS) | {
        "head_dim": size.head_dim,
        "hidden_size": dimensions.hidden,
        "intermediate_size": dimensions.intermediate,
        "num_attention_heads": size.heads,
        "num_hidden_layers": dimensions.layers,
        "num_key_value_heads": size.key_heads,
        "query_pre_attn_scalar": size.query_scalar,
        "vocab_size": vocabulary,
    }


_CONSTANTS: Mapping[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "use_cache": True,
}
