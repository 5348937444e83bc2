"""Adapters that can't be computed are refused by name, in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import ModelConfig
from model.errors import CheckpointError
from model.identity import identify_adapter
from model.locate import locate_adapter
from model.lora import read_adapter
from tests.model.helpers import config_of

from .adapters import base, save_adapter

Q = "base_model.model.model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return config_of(base())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(base(), tmp_path)
    return tmp_path


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def message(folder: Path, config: ModelConfig) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_adapter(folder, config)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


def test_an_adapter_is_read_whole(folder: Path, config: ModelConfig) -> None:
    adapter = read_adapter(folder, config)
    assert len(adapter.changes) == 7 * config.num_hidden_layers
    change = adapter.changes["model.layers.3.mlp.down_proj"]
    assert (change.down.shape, change.up.shape, change.scaling) == ((4, 96), (48, 4), 2.0)
    assert adapter.numbers == sum(
        t.numel() for t in load_file(next(folder.glob("*.saf*"))).values()
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only 'LORA' is computed"),
        ({"use_dora": True}, "use_dora is True: magnitudes (DoRA) are not computed"),
        ({"lora_bias": True}, "lora_bias is True: biases of the low-rank matrices"),
        ({"bias": "all"}, "bias is 'all'; only 'none' is computed"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True: Gemma 2 keeps its weights"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is [[0, 2]]: layers are not repeated"),
        ({"alora_invocation_tokens": [5]}, "(aLoRA) are not computed"),
        ({"trainable_token_indices": [5]}, "embeddings can't be adapted"),
        ({"target_parameters": ["x"]}, "only the projections of the layers can be adapted"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changed the base"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save has lm_head"),
        ({"use_something_new": True}, "unknown key use_something_new = True may change"),
        ({"r": 0}, "r: Input should be greater than or equal to 1"),
        ({"rank_pattern": {"(": 4}}, "'(' is no pattern"),
        ({"r": 5}, "does not fit this model: model.layers.0"),
        ({"task_type": "SEQ_CLS"}, "is for a sequence_classification model (task_type SEQ_CLS)"),
    ],
)
def test_configs_that_are_refused(
    folder: Path, config: ModelConfig, values: dict[str, Any], text: str
) -> None:
    change_config(folder, **values)
    assert text in message(folder, config)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda t: t.pop(f"{Q}.lora_A.weight"),
            "lacks lora_A or lora_B of model.layers.0.self_att",
        ),
        (
            lambda t: [t.pop(f"{Q}.lora_{half}.weight") for half in "AB"],
            "lacks lora_A or lora_B of model.layers.0.self_attn.q_proj: it is not whole",
        ),
        (lambda t: t.clear(), "it is not whole"),
        (
            lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(3)}),
            "magnitudes (DoRA) are not computed",
        ),
        (lambda t: t.update({f"{Q}.lora_B.bias": torch.ones(3)}), "biases of adapters"),
        (
            lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.ones(3)}),
            "the output layer can't be adapted",
        ),
        (
            lambda t: t.update(
                {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(3)}
            ),
            "embeddings can't be adapted",
        ),
        (lambda t: t.update({"something": torch.ones(3)}), "have no place in Gemma 2"),
        (
            lambda t: t.update(
                {
                    Q.replace(".0.", ".9.") + f".lora_{half}.weight": torch.ones(4, 4)
                    for half in "AB"
                }
            ),
            "adapts model.layers.9.self_attn.q_proj, which this model does not have",
        ),
        (
            lambda t: t.update({"base_model.model.score.weight": torch.ones(3, 48)}),
            "does not fit this model: it brings",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 48, dtype=torch.int32)}),
            "is not bfloat16, float16 or float32",
        ),
    ],
)
def test_tensors_that_are_refused(
    folder: Path, config: ModelConfig, change: Callable[[Tensors], object], text: str
) -> None:
    change_tensors(folder, change)
    assert text in message(folder, config)


def test_another_base_is_refused_by_its_shapes(folder: Path) -> None:
    wide = config_of(base(hidden_size=64))
    assert "does not fit this model: model.layers.0.mlp.down_proj has" in message(folder, wide)


def test_pickles_and_damage_are_refused(folder: Path, config: ModelConfig) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "can't be read as safetensors" in message(folder, config)
    path.rename(folder / "adapter_model.bin")
    assert "adapter_model.bin is a pickle, which can run code" in message(folder, config)


def test_only_adapters_are_located(tmp_path: Path, folder: Path) -> None:
    assert locate_adapter(str(folder)) == folder
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        locate_adapter(str(folder.parent))
    with pytest.raises(CheckpointError, match="is no folder here, no hub id"):
        locate_adapter("nothing")


def test_digests_tell_adapters_apart(folder: Path) -> None:
    before = identify_adapter(folder)
    change_config(folder, lora_alpha=9)
    changed = identify_adapter(folder)
    change_tensors(folder, lambda t: t[f"{Q}.lora_A.weight"].mul_(2))
    assert len({before, changed, identify_adapter(folder)}) == 3
