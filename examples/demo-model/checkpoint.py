"""The architecture, and checkpoints in Hugging Face layout with the keys of Google's files."""

import json
from pathlib import Path
from typing import Any

import torch
import wordpieces
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma2ForSequenceClassification

# As google/gemma-2-2b-it spells it, at a thousandth of the size. The window is short, so that
# ordinary prompts run past it.
SHAPE: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": wordpieces.BOS,
    "eos_token_id": wordpieces.EOS,
    "final_logit_softcapping": 30.0,
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 8192,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": wordpieces.PAD,
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-6,
    "sliding_window": 32,
    "use_cache": True,
    "vocab_size": wordpieces.VOCAB_SIZE,
}
# Only in the file: older spellings, which transformers still reads.
FILE_ONLY: dict[str, object] = {
    "cache_implementation": "hybrid",
    "hidden_act": "gelu_pytorch_tanh",
    "model_type": "gemma2",
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
}
GENERATION: dict[str, object] = {
    "bos_token_id": wordpieces.BOS,
    "cache_implementation": "hybrid",
    "eos_token_id": [wordpieces.EOS, wordpieces.END_OF_TURN],
    "pad_token_id": wordpieces.PAD,
}


def lm_config() -> Gemma2Config:
    """The configuration both models share."""
    # Eager is the attention that applies Gemma 2's softcap.
    return Gemma2Config(**SHAPE, attn_implementation="eager")


def save_lm(model: Gemma2ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the causal LM. Its head is the embedding, which is stored once."""
    _save(model, {"architectures": ["Gemma2ForCausalLM"]}, tokenizer, folder, {"lm_head.weight"})


def save_classifier(
    model: Gemma2ForSequenceClassification,
    labels: list[str],
    tokenizer: Tokenizer,
    folder: Path,
) -> None:
    """Write the sequence classifier with its labels."""
    extra = {
        "architectures": ["Gemma2ForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    _save(model, extra, tokenizer, folder, set())


def _save(
    model: nn.Module,
    extra: dict[str, Any],
    tokenizer: Tokenizer,
    folder: Path,
    without: set[str],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in without
    }
    weights = folder / "model.safetensors"
    aside = folder / "model.safetensors.part"
    save_file(tensors, aside, metadata={"format": "pt"})
    aside.chmod(0o644)  # save_file makes it private
    aside.replace(weights)
    config = dict(sorted((extra | SHAPE | FILE_ONLY).items()))
    for name, document in (("config", config), ("generation_config", GENERATION)):
        text = json.dumps(document, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    wordpieces.write(tokenizer, folder)
