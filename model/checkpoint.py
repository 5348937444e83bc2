"""From a checkpoint's safetensors files to one rank's parameters: only its slices are read."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError
from .weight_files import corrupt, read_weight_map, some

# safetensors' names of the dtypes that can be read into floats, and into what is not converted.
_FLOATS = ("BF16", "F16", "F32")
_EXACT = {torch.int8: "I8", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}


class Source(Protocol):
    """How a tensor is made of what a checkpoint stores in another form."""

    def names(self, name: str, stored: Collection[str]) -> tuple[str, ...]:
        """Name the tensors that it is made of, the optional ones if they are stored."""

    def read(self, name: str, shape: tuple[int, ...], tensors: Mapping[str, torch.Tensor]) -> Any:
        """Return the whole tensor, in this shape. Raises CheckpointError."""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """One checkpoint tensor and where this rank's part of it goes.

    Attributes:
        name: of the tensor in the checkpoint, in Hugging Face's naming.
        full_shape: that the checkpoint's tensor must have.
        slices: cut this rank's part out of it, one slice per dimension.
        target: a view into a parameter, shaped like the part; values are converted to its dtype.
        source: how to read it where it is stored in another form.
    """

    name: str
    full_shape: tuple[int, ...]
    slices: tuple[slice, ...]
    target: torch.Tensor
    source: Source | None = None


class Found(NamedTuple):
    """Where the tensors of a checkpoint lie, by their names there.

    Attributes:
        files: of every tensor that is stored.
        wanted: the shards of each tensor that is wanted, by the tensor's name.
    """

    files: Mapping[str, Path]
    wanted: Mapping[str, list[Shard]]

    def plain(self) -> dict[Path, dict[str, list[Shard]]]:
        """Give those that are stored as they are wanted, by file."""
        files: dict[Path, dict[str, list[Shard]]] = defaultdict(dict)
        for name, shards in self.wanted.items():
            if shards[0].source is None:
                files[self.files[name]][name] = shards
        return files


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
    found = find(shards, folder, ignorable)
    for path, tensors in found.plain().items():
        with _opened(path) as file:
            _copy_slices(file, tensors, check, change)
    for name, parts in found.wanted.items():
        if parts[0].source is not None:
            if check is not None:
                check()
            whole = read_whole(found, name)
            for shard in parts:
                shard.target.copy_(whole[shard.slices])


def find(shards: Iterable[Shard], folder: Path, ignorable: Collection[str] = ()) -> Found:
    """Find what is wanted of a checkpoint, and check names, shapes and dtypes.

    The arguments and what is raised are those of `load`.
    """
    files = read_weight_map(folder)
    bare = not any(name.startswith("model.") for name in files)
    wanted: dict[str, list[Shard]] = defaultdict(list)
    for shard in shards:
        wanted[_stored_name(shard.name, bare=bare)].append(shard)
    needed = {part for name, parts in wanted.items() for part in _sources(name, parts, files)}
    unneeded = {_stored_name(name, bare=bare) for name in ignorable}
    _check_names(needed, set(files), unneeded, folder)
    found = Found(files, wanted)
    for path, tensors in found.plain().items():
        with _opened(path) as file:
            _check_tensors(file, tensors, path)
    return found


@torch.no_grad()
def read_whole(found: Found, name: str) -> torch.Tensor:
    """Read a wanted tensor as it is stored, or as its source makes it of what is stored.

    Raises:
        CheckpointError: it is damaged, or its source can't make anything of it.
    """
    shard = found.wanted[name][0]
    tensors: dict[str, torch.Tensor] = {}
    for part in _sources(name, [shard], found.files):
        with _opened(found.files[part]) as file:
            tensors[part] = file.get_tensor(part)
    if shard.source is None:
        return tensors[name]
    whole: torch.Tensor = shard.source.read(name, shard.full_shape, tensors)
    return whole


def _sources(name: str, shards: list[Shard], stored: Collection[str]) -> tuple[str, ...]:
    """Name the stored tensors that a wanted one is made of."""
    source = shards[0].source
    return (name,) if source is None else source.names(name, stored)


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
        exact = _EXACT.get(shards[0].target.dtype)
        dtypes = _FLOATS if exact is None else (exact,)
        if tensor.get_dtype() not in dtypes:
            wrong.append(f"{name} is {tensor.get_dtype()}, not one of {', '.join(dtypes)}")
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
