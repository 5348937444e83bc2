"""Tiny random Gemma 2 models of transformers (eager attention), the oracle, and ours from them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2ForSequenceClassification,
    Gemma2ForTokenClassification,
)

from model.config import ModelConfig
from model.gemma2 import Gemma2

from .pages import from_state_dict

HEADS: dict[str, Any] = {
    "Gemma2ForCausalLM": Gemma2ForCausalLM,
    "Gemma2ForSequenceClassification": Gemma2ForSequenceClassification,
    "Gemma2ForTokenClassification": Gemma2ForTokenClassification,
}
# Few of everything, and head_dim * heads (80) differs from hidden_size (48).
TINY: dict[str, Any] = {
    "vocab_size": 103,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


def oracle(
    architecture: str = "Gemma2ForCausalLM", *, seed: int = 0, qk_scale: float = 1.0, **changes: Any
) -> Any:
    """Build transformers' model with random float32 weights.

    Projections are drawn wide enough for attention to be far from uniform, and norm weights and
    biases away from zero, where their mistakes would not show. `qk_scale` makes the cap bite.
    """
    settings: dict[str, Any] = {**TINY, **changes, "attn_implementation": "eager"}
    reference: Any = HEADS[architecture](Gemma2Config(**settings))
    reference.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in reference.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 1:
                tensor.copy_(noise * 0.1)
            else:
                tensor.copy_(noise * tensor.shape[1] ** -0.5)
            if "q_proj.weight" in name or "k_proj.weight" in name:
                tensor.mul_(qk_scale)
    reference.config.architectures = [architecture]
    return reference


def ours(reference: Any) -> Gemma2:
    """Build our model with the same config, dtype and weights."""
    return from_state_dict(config_of(reference), reference.state_dict())


def config_of(reference: Any) -> ModelConfig:
    """Read the oracle's config as ours."""
    return ModelConfig.from_dict(reference.config.to_dict(), source="test")


def in_bfloat16(reference: Any, folder: Path) -> Any:
    """Save and load again in bfloat16: `.to(bfloat16)` would round the rotary frequencies too."""
    reference.save_pretrained(folder)
    kind = type(reference)
    return kind.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()


@torch.no_grad()
def oracle_logits(reference: Any, ids: Any, **inputs: Any) -> Tensor:
    """Run the oracle on one sequence [T] or a batch [B, T] of ids."""
    batch = torch.as_tensor(ids)
    logits: Tensor = reference(input_ids=batch.reshape(-1, batch.shape[-1]), **inputs).logits
    return logits.squeeze(0) if batch.dim() == 1 else logits


def random_ids(count: int, *, vocab: int = 103, seed: int = 0) -> list[int]:
    """Draw token ids, none of which is a special one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (count,), generator=generator).tolist()


def report(record_property: Any, row: str, what: str, value: float) -> None:
    """Keep a figure with the test's result; `pytest -s` shows it."""
    record_property(f"{row}: {what}", value)
    print(f"\n{row}: {what} = {value:.3g}")
