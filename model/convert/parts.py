"""How the tensors of two layouts hang together: each of ours is a part of one of theirs.

"Ours" are transformers' names and shapes, which the engine reads; "theirs" those of an original
checkpoint. A part is cut out by an index and brought to our shape by a permutation and a reshape,
so it can be read and written bit for bit.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.weight_files import some

Shape = tuple[int, ...]
Index = tuple[int | slice, ...]

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a stored tensor without reading it.

    Attributes:
        shape: of it.
        dtype: of it, in words where torch does not have it.
    """

    shape: Shape
    dtype: torch.dtype | str

    @property
    def nbytes(self) -> int:
        """Bytes of its values; the dtype is one of torch's."""
        assert isinstance(self.dtype, torch.dtype)
        return prod(self.shape) * self.dtype.itemsize


class Stored(Protocol):
    """Tensors as they lie in files, by name.

    Attributes:
        place: what to call these files in a message.
        metas: of every tensor, by name.
    """

    place: str
    metas: dict[str, Meta]

    def read(self, name: str, index: Index) -> Tensor:
        """Read a part of a tensor; () is all of it. It may be a view of a mapped file."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One of our tensors, and where it lies in one of theirs.

    Attributes:
        ours: our name.
        shape: ours.
        theirs: their name.
        their_shape: of the whole tensor that it is a part of.
        index: cuts the part out of it.
        axes: permutes the part's dimensions before it is reshaped to ours; empty leaves them.
    """

    ours: str
    shape: Shape
    theirs: str
    their_shape: Shape
    index: Index = ()
    axes: tuple[int, ...] = ()

    def read(self, part: Tensor) -> Tensor:
        """Turn what `index` cuts out of their tensor into ours."""
        return (part.permute(self.axes) if self.axes else part).reshape(self.shape)

    def write(self, ours: Tensor, whole: Tensor) -> None:
        """Put our tensor into its place in theirs."""
        target = whole[self.index]
        if self.axes:
            target = target.permute(self.axes)
        target.copy_(ours.reshape(target.shape))


class Weights:
    """A checkpoint's weights under our names, whatever their layout is.

    Raises:
        CheckpointError: a tensor is missing, is one too many, or has another shape or dtype than
            the layout has for it.
    """

    def __init__(
        self, stored: Stored, parts: Iterable[Part], ignorable: Iterable[str] = ()
    ) -> None:
        self._stored = stored
        self._parts = {part.ours: part for part in parts}
        wanted = {part.theirs: part.their_shape for part in self._parts.values()}
        _check_names(wanted.keys(), stored.metas.keys(), set(ignorable), stored.place)
        _check_metas(wanted, stored)
        self.metas = {name: self._meta(part) for name, part in self._parts.items()}

    def read(self, name: str) -> Tensor:
        """Give one of our tensors; it may be a view of a mapped file."""
        part = self._parts[name]
        return part.read(self._stored.read(part.theirs, part.index))

    def dtype(self) -> torch.dtype:
        """The dtype that holds every value exactly."""
        kinds = {meta.dtype for meta in self.metas.values() if isinstance(meta.dtype, torch.dtype)}
        widest, *others = kinds
        for other in others:
            widest = torch.promote_types(widest, other)
        return widest

    def _meta(self, part: Part) -> Meta:
        return Meta(part.shape, self._stored.metas[part.theirs].dtype)


def their_metas(weights: Weights, parts: Iterable[Part]) -> dict[str, Meta]:
    """What the tensors of another layout are going to be, by their names.

    Where several of ours make up one of theirs, it has the dtype that holds them all.
    """
    metas: dict[str, Meta] = {}
    for part in parts:
        dtype = weights.metas[part.ours].dtype
        assert isinstance(dtype, torch.dtype)
        if part.theirs in metas:
            former = metas[part.theirs].dtype
            assert isinstance(former, torch.dtype)
            dtype = torch.promote_types(former, dtype)
        metas[part.theirs] = Meta(part.their_shape, dtype)
    return metas


def assembler(weights: Weights, parts: Iterable[Part]) -> Callable[[str], Tensor]:
    """Return what makes one of their tensors, by its name, of ours; what no part fills is zero."""
    listed = list(parts)
    metas = their_metas(weights, listed)
    grouped: dict[str, list[Part]] = defaultdict(list)
    for part in listed:
        grouped[part.theirs].append(part)

    def assemble(name: str) -> Tensor:
        dtype = metas[name].dtype
        assert isinstance(dtype, torch.dtype)
        whole = torch.zeros(metas[name].shape, dtype=dtype)
        for part in grouped[name]:
            part.write(weights.read(part.ours), whole)
        return whole

    return assemble


def in_shards(metas: Mapping[str, Meta], most: int) -> Iterator[list[str]]:
    """Cut the names, in their order, into files of at most `most` bytes; a larger one is alone."""
    names: list[str] = []
    size = 0
    for name, meta in metas.items():
        if names and size + meta.nbytes > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += meta.nbytes
    yield names


def _check_names(
    wanted: Iterable[str], stored: Iterable[str], ignorable: set[str], place: str
) -> None:
    if missing := sorted(set(wanted) - set(stored)):
        raise CheckpointError(
            f"{place} lacks {len(missing)} tensors that a Gemma 2 of its size has: {some(missing)}"
        )
    if surplus := sorted(set(stored) - set(wanted) - ignorable):
        raise CheckpointError(
            f"{place} holds {len(surplus)} tensors that a Gemma 2 of its size has no place for: "
            f"{some(surplus)}"
        )


def _check_metas(wanted: Mapping[str, Shape], stored: Stored) -> None:
    wrong = []
    for name, shape in wanted.items():
        meta = stored.metas[name]
        if meta.shape != shape:
            wrong.append(f"{name} has shape {meta.shape}, not {shape}")
        elif meta.dtype not in FLOATS:
            kind = str(meta.dtype).removeprefix("torch.")
            wrong.append(f"{name} is {kind}, not bfloat16, float16 or float32")
    if wrong:
        raise CheckpointError(f"{stored.place}: {some(wrong)}")
