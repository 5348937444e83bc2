"""From a checkpoint to one whose layers are quantized, that is loaded to the same answers.

Tensors are read, rounded and written one file at a time, so it takes the memory of one file.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .aside import refuse_taken, written_aside
from .checkpoint import find, read_whole
from .config import ModelConfig
from .config_file import read_json_object
from .errors import CheckpointError
from .gemma2 import Gemma2
from .parallel import TensorParallel
from .params import DType, WeightFormat
from .quantization import FORMATS, Format
from .quantization_config import write_quantization
from .weight_files import INDEX, SINGLE

FILE_BYTES = 2 << 30
# What a checkpoint has beside its weights; never pickles or code.
_BESIDE = ("*.json", "*.jinja", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        source_bytes: of the weights that were read.
        bytes: of the weights that were written.
        files: that hold them.
    """

    source_bytes: int
    bytes: int
    files: int


def quantize_checkpoint(
    source: Path,
    target: Path,
    quantization: WeightFormat,
    *,
    dtype: DType = "auto",
    file_bytes: int = FILE_BYTES,
) -> Written:
    """Write a checkpoint with the layers' weights of another in fewer bits.

    It is written aside and renamed when it is whole. With one rank it is loaded to the same answers
    as the source with `EngineConfig(quantization=..., dtype=...)`, to the last bit; with several,
    int8, fp8 and bnb-int8 have scales of whole rows instead of each rank's part of them.

    Args:
        source: what `locate` returned.
        target: the folder to be; its parent is made.
        quantization: of the layers' weights.
        dtype: of what is not quantized, and from which the rest is rounded; "auto" is the source's.
        file_bytes: most bytes of a file of weights, unless a single tensor is larger.

    Raises:
        ParameterError: the source is in float16 and `dtype` is "auto", or the layers' sizes don't
            fit the format.
        CheckpointError, ConfigError: the source can't be read or is quantized already, or the
            target exists or can't be written.
    """
    refuse_taken(target)
    config = ModelConfig.from_folder(source)
    if config.quantization != "none":
        raise CheckpointError(
            f"{source} is in {config.quantization} already; quantize the original instead"
        )
    kind: torch.dtype = getattr(torch, config.compute_dtype(dtype))
    tensors = _Tensors(source, config, FORMATS[quantization], kind)
    with written_aside(target, tensors.nbytes) as folder:
        folder.mkdir()
        _copy_beside(source, folder)
        _write_config(source, folder, quantization, kind)
        return _write_weights(tensors, folder, file_bytes)


class _Tensors:
    """The tensors of a checkpoint as they will be, each made when it is asked for.

    Attributes:
        source_bytes: of those that they are made of, in the dtype that they are rounded from.
        nbytes: of them all.
    """

    def __init__(self, folder: Path, config: ModelConfig, kind: Format, dtype: torch.dtype) -> None:
        model = _on_meta(config, dtype)
        self._found = find(model.shards(), folder, model.ignorable())
        self._format, self._dtype = kind, dtype
        # The model that will read them knows which stay as they are.
        reader = _on_meta(replace(config, quantization=kind.name), dtype)
        kept = list(reader.shards())
        self._dense = {shard.name for shard in kept if shard.target.dtype == dtype}
        self.nbytes = sum(shard.target.nbytes for shard in kept)
        self.source_bytes = sum(shards[0].target.nbytes for shards in self._found.wanted.values())

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Give what becomes of each of the source's tensors, by name."""
        for name, shards in self._found.wanted.items():
            weight = read_whole(self._found, name).to(self._dtype)
            if shards[0].name in self._dense:
                yield {name: weight}
            else:
                yield self._format.stored(name, self._format.quantize(weight))


def _on_meta(config: ModelConfig, dtype: torch.dtype) -> Gemma2:
    return Gemma2(config, TensorParallel.single(), dtype, torch.device("meta"))


def _write_weights(tensors: _Tensors, folder: Path, file_bytes: int) -> Written:
    """Write the weights, cut into files between the source's tensors, and an index of several."""
    files: list[list[str]] = []
    total = 0
    for held in _batches(tensors, file_bytes):
        path = folder / f"part-{len(files)}"
        whole = {name: tensor.contiguous() for name, tensor in held.items()}
        save_file(whole, path, metadata={"format": "pt"})
        files.append(list(held))
        total += sum(tensor.nbytes for tensor in held.values())
    if len(files) == 1:
        (folder / "part-0").rename(folder / SINGLE)
        return Written(tensors.source_bytes, total, 1)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files):
        name = f"model-{number + 1:05}-of-{len(files):05}.safetensors"
        (folder / f"part-{number}").rename(folder / name)
        weight_map |= dict.fromkeys(names, name)
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return Written(tensors.source_bytes, total, len(files))


def _batches(tensors: _Tensors, most_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Put tensors together as long as they stay below so many bytes."""
    held: dict[str, Tensor] = {}
    size = 0
    for made in tensors:
        more = sum(tensor.nbytes for tensor in made.values())
        if held and size + more > most_bytes:
            yield held
            held, size = {}, 0
        held |= made
        size += more
    yield held


def _write_config(source: Path, folder: Path, name: WeightFormat, dtype: torch.dtype) -> None:
    """Write the source's config.json with what it says of the weights changed."""
    values = read_json_object(source / "config.json")
    values.pop("torch_dtype", None)
    values["dtype"] = str(dtype).removeprefix("torch.")
    values["quantization_config"] = write_quantization(name)
    _write_json(folder / "config.json", values)


def _copy_beside(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files and the generation config."""
    for pattern in _BESIDE:
        for path in sorted(source.glob(pattern)):
            if path.name not in {"config.json", INDEX}:
                shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
