"""An adapter merged into the weights as they are loaded: in float32, and rounded once."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import Shard, load
from model.config import ModelConfig
from model.errors import CheckpointError

from .adapter import HEAD, Adapter, read_tensors
from .config import read_adapter_config


def adapted_config(config: ModelConfig, folder: Path | None) -> ModelConfig:
    """Return what a model becomes when an adapter is merged into it.

    It stays what it was, unless the adapter brings a classification head and the model is a causal
    LM, as it is where a base model was fine-tuned to classify. Its labels have no names then.

    Args:
        config: of the model.
        folder: of the adapter; None is none.

    Raises:
        CheckpointError: the adapter can't be used, or the model's weights are quantized already.
    """
    if folder is None:
        return config
    if config.quantization != "none":
        raise CheckpointError(
            f"{folder} can't be merged into weights that are in {config.quantization} already: "
            "keep it beside them (adapters), or merge it into the original and quantize that"
        )
    architecture = read_adapter_config(folder).architecture
    if architecture in (None, config.architecture) or config.architecture != "causal_lm":
        return config
    weight = read_tensors(folder).get(f"base_model.model.{HEAD}.weight")
    if weight is None:
        raise CheckpointError(
            f"{folder} is for a {architecture} model and brings no {HEAD}.weight, and the model is "
            "a causal LM: give the classifier that it was trained on"
        )
    labels = tuple(f"LABEL_{index}" for index in range(len(weight)))
    return replace(config, architecture=architecture, labels=labels)


def load_merged(
    shards: Iterable[Shard],
    folder: Path,
    ignorable: Collection[str],
    check: Callable[[], None] | None,
    adapter: Adapter,
) -> None:
    """Load a checkpoint with an adapter merged into it.

    Args:
        shards: as for `checkpoint.load`, like the next three.
        folder: of the checkpoint.
        ignorable: likewise.
        check: likewise.
        adapter: what changes it.

    Raises:
        CheckpointError: as `checkpoint.load`.
    """
    stored = []
    for shard in shards:
        if shard.name in adapter.head:
            shard.target.copy_(adapter.head[shard.name][shard.slices])
        else:
            stored.append(shard)

    def merged(shard: Shard, part: Tensor) -> Tensor:
        change = adapter.changes.get(shard.name.removesuffix(".weight"))
        if change is None:
            return part
        outputs, inputs = shard.slices
        product = change.up[outputs].float() @ change.down[:, inputs].float()
        return torch.add(part.float(), product, alpha=change.scaling)

    load(stored, folder, {*ignorable, *adapter.head}, check, merged)
