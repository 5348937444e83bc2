"""From a checkpoint's safetensors files to one rank's parameters: only its slices are read."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError
from .weight_files import corrupt, read_weight_map, some

# safetensors' names of the dtypes that can be read.
_DTYPES = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """One checkpoint tensor and where this rank's part of it goes.

    Attributes:
        name: of the tensor in the checkpoint, in Hugging Face's naming.
        full_shape: that the checkpoint's tensor must have.
        slices: cut this rank's part out of it, one slice per dimension.
        target: a view into a parameter, shaped like the part; values are converted to its dtype.
    """

    name: str
    full_shape: tuple[int, ...]
    slices: tuple[slice, ...]
    target: torch.Tensor


def load(
    shards: Iterable[Shard],
    folder: Path,
    ignorable: Collection[str] = (),
    check: Callable[[], None] | None = None,
    change: Callable[[Shard, torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Copy a checkpoint into its targets slice by slice, converting to the dtype of each target.

    Every name, shape and dtype is checked before anything is copied. A folder that holds a bare
    backbone, whose names lack the prefix `model.`, is read as well.

    Args:
        shards: what is wanted; a tensor may occur several times, for several targets.
        folder: holds model.safetensors, or shards and their index.
        ignorable: names that the checkpoint may hold without being asked for them.
        check: called before each tensor is copied; what it raises ends the loading.
        change: given a shard and its part of the stored tensor; what it returns is copied instead.

    Raises:
        CheckpointError: the checkpoint lacks a tensor, or holds one that is neither wanted nor
            ignorable, of another shape, or of a dtype that is not bfloat16, float16 or float32; or
            its files are damaged or disagree, see `read_weight_map`.
    """
    stored = read_weight_map(folder)
    bare = not any(name.startswith("model.") for name in stored)
    wanted: dict[str, list[Shard]] = defaultdict(list)
    for shard in shards:
        wanted[_stored_name(shard.name, bare=bare)].append(shard)
    unneeded = {_stored_name(name, bare=bare) for name in ignorable}
    _check_names(set(wanted), set(stored), unneeded, folder)
    files: dict[Path, dict[str, list[Shard]]] = defaultdict(dict)
    for name, parts in wanted.items():
        files[stored[name]][name] = parts
    for path, tensors in files.items():
        with _opened(path) as file:
            _check_tensors(file, tensors, path)
    for path, tensors in files.items():
        with _opened(path) as file:
            _copy_slices(file, tensors, check, change)


def _stored_name(name: str, *, bare: bool) -> str:
    """Give the name that a tensor has in the files; Gemma2Model saves its own without a prefix."""
    return name.removeprefix("model.") if bare else name


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; what the library finds wrong with it becomes a CheckpointError."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise corrupt(path, error) from None


def _check_names(wanted: set[str], stored: set[str], ignorable: set[str], folder: Path) -> None:
    if missing := sorted(wanted - stored):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors that its config.json asks for: {some(missing)}"
        )
    if surplus := sorted(stored - wanted - ignorable):
        raise CheckpointError(
            f"{folder} holds {len(surplus)} tensors that its config.json has no place for: "
            f"{some(surplus)}"
        )


def _check_tensors(file: Any, wanted: dict[str, list[Shard]], path: Path) -> None:
    """Compare shapes and dtypes with those wanted, from the file's header alone."""
    wrong = []
    for name, shards in wanted.items():
        tensor = file.get_slice(name)
        shape, full_shape = tuple(tensor.get_shape()), shards[0].full_shape
        if tensor.get_dtype() not in _DTYPES:
            wrong.append(f"{name} is {tensor.get_dtype()}, not one of {', '.join(_DTYPES)}")
        elif shape != full_shape:
            wrong.append(f"{name} has shape {shape}, config.json asks for {full_shape}")
    if wrong:
        raise CheckpointError(f"{path}: {some(wrong)}")


@torch.no_grad()
def _copy_slices(
    file: Any,
    wanted: dict[str, list[Shard]],
    check: Callable[[], None] | None,
    change: Callable[[Shard, torch.Tensor], torch.Tensor] | None,
) -> None:
    """Fill the targets; a slice is a view of the mapped file, so nothing else takes memory."""
    for name, shards in wanted.items():
        if check is not None:
            check()
        tensor = file.get_slice(name)
        for shard in shards:
            part = tensor[shard.slices]
            assert part.shape == shard.target.shape, (name, part.shape, shard.target.shape)
            shard.target.copy_(part if change is None else change(shard, part))
