"""An adapter's folder, read and held against the model that it is to change."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.config import ModelConfig
from model.errors import CheckpointError
from model.weight_files import corrupt, some

from .config import AdapterConfig, read_adapter_config

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
HEAD = "score"

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# A bare backbone's names lack the second `model.`.
_LOW_RANK = re.compile(
    r"base_model\.model\.(?:model\.)?(layers\.\d+\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))"
    r"_proj)\.lora_([AB])\.weight"
)
_SAVED = re.compile(rf"base_model\.model\.({HEAD}\.(?:weight|bias))")
# What part of a tensor's name tells why it has no place.
_WHY_NOT = {
    "lora_magnitude_vector": "magnitudes (DoRA) are not computed",
    "lora_embedding_": "embeddings can't be adapted",
    "embed_tokens": "embeddings can't be adapted",
    "lm_head": "the output layer can't be adapted",
    ".bias": "biases of adapters are not computed",
}


class LowRank(NamedTuple):
    """The change of one projection: scaling * up @ down, whole and as it is stored.

    Attributes:
        down: [R, inputs], PEFT's A.
        up: [outputs, R], PEFT's B.
        scaling: see `AdapterConfig.scaling`.
    """

    down: Tensor
    up: Tensor
    scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter.

    Attributes:
        folder: where it was read.
        changes: by the name of a projection in the checkpoint, model.layers.0.mlp.up_proj.
        head: tensors that take the place of the classification head's, by their name in the
            checkpoint; empty if the model's own stays.
    """

    folder: Path
    changes: Mapping[str, LowRank]
    head: Mapping[str, Tensor]

    @property
    def numbers(self) -> int:
        """How many numbers its matrices hold."""
        matrices = [matrix for change in self.changes.values() for matrix in change[:2]]
        return sum(tensor.numel() for tensor in (*matrices, *self.head.values()))


def read_adapter(folder: Path, config: ModelConfig) -> Adapter:
    """Read an adapter that is to change a model.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors, as PEFT saves them.
        config: of the model.

    Raises:
        CheckpointError: something is missing, malformed, not computed here, or does not fit the
            model.
    """
    settings = read_adapter_config(folder)
    if settings.architecture not in (None, config.architecture):
        raise CheckpointError(
            f"{folder} is for a {settings.architecture} model (task_type {settings.task_type}); "
            f"this one is a {config.architecture} model"
        )
    tensors = read_tensors(folder)
    halves: dict[str, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    surplus = []
    for name, tensor in tensors.items():
        if match := _LOW_RANK.fullmatch(name):
            halves.setdefault(f"model.{match[1]}", {})[match[2]] = tensor
        elif match := _SAVED.fullmatch(name):
            head[match[1]] = tensor
        else:
            surplus.append(name)
    if surplus:
        raise CheckpointError(f"{folder}: {_why_not(surplus)}")
    changes = _changes(folder, halves, settings, shapes_of(config))
    _check_head(folder, head, config)
    return Adapter(folder, changes, head)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's tensors, whatever they are called.

    Raises:
        CheckpointError: there are none, or they can't be read.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = f": {PICKLE} is a pickle, which can run code when it is read"
        raise CheckpointError(
            f"{folder} lacks {WEIGHTS}{pickled if (folder / PICKLE).exists() else ''}; save the "
            "adapter with PEFT's save_pretrained"
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise corrupt(path, error) from None
    wrong = sorted(name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES)
    if wrong:
        raise CheckpointError(f"{path}: {some(wrong)} is not bfloat16, float16 or float32")
    return tensors


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return [outputs, inputs] of each projection of the layers, by its name in the checkpoint."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        f"model.layers.{layer}.{name}": shape
        for layer in range(config.num_hidden_layers)
        for name, shape in shapes.items()
    }


def head_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the classification head's tensors; none of a causal LM."""
    if config.architecture == "causal_lm":
        return {}
    labels = len(config.labels)
    shapes: dict[str, tuple[int, ...]] = {f"{HEAD}.weight": (labels, config.hidden_size)}
    if config.architecture == "token_classification":
        shapes[f"{HEAD}.bias"] = (labels,)
    return shapes


def _changes(
    folder: Path,
    halves: Mapping[str, Mapping[str, Tensor]],
    settings: AdapterConfig,
    shapes: Mapping[str, tuple[int, int]],
) -> dict[str, LowRank]:
    """Pair the matrices of each module, and check that they are all there and fit."""
    if unknown := sorted(halves.keys() - shapes.keys()):
        raise CheckpointError(f"{folder} adapts {some(unknown)}, which this model does not have")
    single = sorted(name for name, pair in halves.items() if len(pair) == 1)
    missing = sorted(name for name in shapes.keys() - halves.keys() if settings.must_adapt(name))
    if single or missing or not halves:
        what = some(single + missing) or "any low-rank matrices"
        raise CheckpointError(f"{folder} lacks lora_A or lora_B of {what}: it is not whole")
    changes = {}
    for name, pair in halves.items():
        (outputs, inputs), rank = shapes[name], settings.rank(name)
        found = tuple(pair["B"].shape), tuple(pair["A"].shape)
        if found != ((outputs, rank), (rank, inputs)):
            raise CheckpointError(
                f"{folder} does not fit this model: {name} has lora_B {found[0]} and lora_A "
                f"{found[1]}, and takes {(outputs, rank)} and {(rank, inputs)}"
            )
        changes[name] = LowRank(pair["A"], pair["B"], settings.scaling(name))
    return changes


def _check_head(folder: Path, head: Mapping[str, Tensor], config: ModelConfig) -> None:
    shapes = head_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if found and found != shapes:
        raise CheckpointError(
            f"{folder} does not fit this model: it brings {found}, and the model's head is "
            f"{shapes or 'none'}"
        )


def _why_not(surplus: list[str]) -> str:
    for name in sorted(surplus):
        for part, reason in _WHY_NOT.items():
            if part in name:
                return f"it holds {name}: {reason}"
    return f"it holds {some(sorted(surplus))}, which have no place in Gemma 2"
