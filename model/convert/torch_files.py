"""gemma_pytorch's files: what `torch.save` wrote, read without running anything in it.

A single file holds {"model_state_dict": tensors}; a folder holds `pytorch_model.bin.index.json`
and the files that it names, each a dict of tensors. Values stay in the mapped files until they are
read. The quantized form has int8 matrices, each with a `weight_scaler` per row.
"""

import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config_file import read_json_object
from model.errors import CheckpointError
from model.weight_files import some

from .layouts import FREQUENCIES
from .parts import Index, Meta, in_shards

INDEX = "pytorch_model.bin.index.json"
SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
SCALER = "weight_scaler"
STATE = "model_state_dict"

_ASKED_FOR = re.compile(r"GLOBAL (\S+)")  # in what torch says of a pickle that it refuses


class TorchFiles:
    """The tensors of a gemma_pytorch checkpoint, quantized ones decoded as they are read.

    Attributes:
        place: the file or folder.
        metas: by name; an int8 matrix with its scaler counts as one tensor of the scaler's dtype.

    Raises:
        CheckpointError: a file is damaged, cut off, of an old form, holds more than tensors, or an
            index names another file than those beside it.
    """

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._tensors = _from_folder(path) if path.is_dir() else _from_single(path)
        self.metas = self._read_metas()

    def read(self, name: str, index: Index) -> Tensor:
        """Read a part of a tensor, see `Stored`."""
        part = self._tensors[name][index]
        scaler = self._scaler(name)
        if scaler is None:
            return part
        # As gemma_pytorch's Linear and Embedding do, in the dtype of the scaler.
        rows = index[0] if index else slice(None)
        return part * scaler[rows].unsqueeze(-1)

    def _read_metas(self) -> dict[str, Meta]:
        metas = {name: Meta(tuple(t.shape), t.dtype) for name, t in self._tensors.items()}
        for name in self._tensors:
            if (scaler := self._scaler(name)) is not None:
                metas[name] = Meta(metas[name].shape, scaler.dtype)
                del metas[_scaler_name(name)]
        return metas

    def _scaler(self, name: str) -> Tensor | None:
        """The scaler of an int8 matrix, [rows]; None of anything else."""
        tensor, scaler = self._tensors[name], self._tensors.get(_scaler_name(name))
        fits = tensor.dtype == torch.int8 and scaler is not None and tensor.dim() == 2
        if not fits or scaler is None or scaler.shape != tensor.shape[:1]:
            return None
        return scaler


def save_single(file: Path, metas: Mapping[str, Meta], assemble: Callable[[str], Tensor]) -> None:
    """Write one file as gemma_pytorch loads it; all of it is in memory before."""
    _save({STATE: {name: assemble(name) for name in metas}}, file)


def save_folder(
    folder: Path,
    metas: Mapping[str, Meta],
    assemble: Callable[[str], Tensor],
    max_shard_bytes: int,
) -> None:
    """Write shards and at last their index; a shard at a time is in memory."""
    shards = list(in_shards(metas, max_shard_bytes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        _save({name: assemble(name) for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    total = sum(meta.nbytes for meta in metas.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save(content: Mapping[str, Any], file: Path) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # so it says that the disk is full
        raise CheckpointError(f"{file.name} can't be written: {_first_line(error)}") from None


def _scaler_name(name: str) -> str:
    return name.removesuffix("weight") + SCALER


def _from_single(path: Path) -> dict[str, Tensor]:
    content = _load(path)
    state = content.get(STATE) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} has no {STATE}, as gemma_pytorch's single files have")
    return _only_tensors(state, path)


def _from_folder(folder: Path) -> dict[str, Tensor]:
    index = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{folder / INDEX} has no weight_map")
    for name in index.values():
        if not _is_plain_name(name):
            raise CheckpointError(f"{folder / INDEX} names {name!r}, which is no file beside it")
    files = sorted(set(index.values()))
    if absent := [name for name in files if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} lacks {some(absent)}, named in {INDEX}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _only_tensors(_load(folder / file), folder / file).items():
            # Every file may have a copy of the table, which is not read.
            if index.get(name) != file and name != FREQUENCIES:
                said = f"in {index[name]}" if name in index else "nowhere"
                raise CheckpointError(f"{name} is in {folder / file}, and {said} by {INDEX}")
            tensors[name] = tensor
    if missing := sorted(set(index) - set(tensors)):
        raise CheckpointError(f"{folder} lacks {some(missing)}, named in {INDEX}")
    return tensors


def _load(path: Path) -> Any:
    """Map a file of `torch.save`; nothing that it names is called."""
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unsafe(path, str(error))) from None
    # What damaged bytes turn into depends on where the damage is.
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        AssertionError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path} can't be read ({_first_line(error)}): it is damaged, a download that broke "
            "off, or in the form before PyTorch 1.6; fetch it again"
        ) from None


def _only_tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """Check that a file holds plain tensors by name, on the CPU, and nothing else."""
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__} instead of tensors by name")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name} has no values of its own in this file")
    return {name: tensor.detach() for name, tensor in state.items()}


def _unsafe(path: Path, message: str) -> str:
    asked_for = _ASKED_FOR.search(message)
    if asked_for is None:
        return (
            f"{path} is no file of tensors alone, as torch.save writes it: it is damaged, or was "
            "made to be more; fetch it again"
        )
    return (
        f"{path} asks for {asked_for[1].rstrip('.')} when it is read, which may run any code: "
        "refused; get the weights from who published them"
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and name == Path(name).name and name != ".."
