"""Small checkpoints as transformers saves them, and what is asked of them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from model.checkpoint import Shard
from model.weight_files import SINGLE

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


def small_checkpoint(folder: Path) -> Path:
    """A folder that can be told from others, though no model can be made of it."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gemma2"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file(
        {"model.norm.weight": torch.ones(8), "model.w": torch.zeros(100, 1000)}, folder / SINGLE
    )
    return folder
