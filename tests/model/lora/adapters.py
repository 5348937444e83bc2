"""Adapters as PEFT saves them, with random weights, and PEFT's own models of them: the oracle."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.model.helpers import oracle

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVERYWHERE = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
TASKS = {
    "Gemma2ForCausalLM": "CAUSAL_LM",
    "Gemma2ForSequenceClassification": "SEQ_CLS",
    "Gemma2ForTokenClassification": "TOKEN_CLS",
}
# Each of another shape: what they have in common is the model.
SHAPES: dict[str, dict[str, Any]] = {
    "everywhere": {"r": 4, "lora_alpha": 8, "target_modules": EVERYWHERE},
    "attention": {"r": 8, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "o_proj"]},
    "feed-forward": {"r": 3, "lora_alpha": 6, "target_modules": ["up_proj", "down_proj"]},
    "patterns": {
        "r": 5,
        "lora_alpha": 10,
        "use_rslora": True,
        "target_modules": EVERYWHERE,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.gate_proj": 7},
        "alpha_pattern": {"down_proj": 1.5, r"layers\.2\..*": 20},
        "layers_to_transform": [1, 2],
    },
}


def save_adapter(reference: Any, folder: Path, *, seed: int = 0, **settings: Any) -> PeftModel:
    """Save an adapter of a model, none of whose matrices is zero; gives the model with it."""
    task = TASKS[reference.config.architectures[0]]
    config = LoraConfig(task_type=task, **{**SHAPES["everywhere"], **settings})
    model = get_peft_model(copy.deepcopy(reference), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * parameter.shape[-1] ** -0.5 * 0.5)
            elif "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    return model.eval()


def merged(reference: Any, folder: Path) -> Any:
    """PEFT's own merge of a saved adapter into a model."""
    model = PeftModel.from_pretrained(copy.deepcopy(reference), folder)
    return model.merge_and_unload().eval()


def base(architecture: str = "Gemma2ForCausalLM", **changes: Any) -> Any:
    return oracle(architecture, seed=5, qk_scale=2.0, **changes)
