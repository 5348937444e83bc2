"""The files that we write and that the engine reads: safetensors, one or several with an index."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.weight_files import INDEX, SINGLE, corrupt, read_weight_map

from .parts import Index, Meta, in_shards

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# What transformers puts there, and asks for when it reads.
_METADATA = {"format": "pt"}
_BACKBONE = "model."


class SafetensorsFiles:
    """The tensors of a folder in transformers' layout.

    Attributes:
        place: the folder.
        metas: by name; those of a bare backbone have the prefix that it leaves out.

    Raises:
        CheckpointError: see `read_weight_map`.
    """

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        files = read_weight_map(folder)
        bare = not any(name.startswith(_BACKBONE) for name in files)
        self._prefix = _BACKBONE if bare else ""
        opened = {path: _open(path) for path in set(files.values())}
        self._files = {self._prefix + name: opened[path] for name, path in files.items()}
        self.metas = {name: self._meta(name) for name in self._files}

    def read(self, name: str, index: Index) -> Tensor:
        """Read a part of a tensor, see `Stored`."""
        tensor: Tensor = self._files[name].get_tensor(name.removeprefix(self._prefix))
        return tensor[index]

    def _meta(self, name: str) -> Meta:
        tensor = self._files[name].get_slice(name.removeprefix(self._prefix))
        dtype = tensor.get_dtype()
        return Meta(tuple(tensor.get_shape()), _DTYPES.get(dtype, str(dtype)))


def save_safetensors(
    folder: Path,
    metas: Mapping[str, Meta],
    assemble: Callable[[str], Tensor],
    max_shard_bytes: int,
) -> None:
    """Write shards, named as transformers names them; a shard at a time is in memory."""
    shards = list(in_shards(metas, max_shard_bytes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: assemble(name) for name in names}, folder / file, metadata=_METADATA)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(meta.nbytes for meta in metas.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise corrupt(path, error) from None
