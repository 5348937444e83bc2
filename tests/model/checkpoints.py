"""Small checkpoints as transformers saves them, and what is asked of them."""

from typing import Any

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from model.checkpoint import Shard

Tensors = dict[str, torch.Tensor]


def build(kind: type[PreTrainedModel] = Gemma2ForCausalLM, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **changes,
    )
    return kind(config)


def whole(expected: Tensors, dtype: torch.dtype = torch.float32) -> list[Shard]:
    return [
        Shard(
            name,
            tuple(tensor.shape),
            (slice(None),) * tensor.ndim,
            torch.full(tensor.shape, torch.nan, dtype=dtype),
        )
        for name, tensor in expected.items()
    ]


def tied_weights(model: PreTrainedModel) -> Tensors:
    return {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}
