"""What all formats of quantized weights have in common.

Shape suffixes: N outputs, D inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from model.checkpoint import Shard, Source
from model.errors import ParameterError
from model.params import Quantization

ALL = slice(None)


class Part(NamedTuple):
    """One tensor of a format; its first dimension are the outputs.

    Attributes:
        suffix: that follows the weight's name in a checkpoint.
        dtype: of its elements.
        inputs: how many of a row's values an element stands for; None for the whole row, and then
            the tensor has one dimension.
        source: how it is read where it lies in another form.
    """

    suffix: str
    dtype: torch.dtype
    inputs: int | None
    source: Source | None = None

    def shape(self, outputs: int, inputs: int) -> tuple[int, ...]:
        """Return the tensor's shape for a weight [outputs, inputs]."""
        return (outputs,) if self.inputs is None else (outputs, inputs // self.inputs)

    def cut(self, slices: tuple[slice, ...]) -> tuple[slice, ...]:
        """Turn slices of the weight into slices of the tensor."""
        rows, columns = slices
        if self.inputs is None:
            return (rows,)
        if columns == ALL:
            return rows, ALL
        return rows, slice(columns.start // self.inputs, columns.stop // self.inputs)


class Format(ABC):
    """A way to keep weights in fewer bits.

    Attributes:
        name: as users choose it.
        block: values of a row that share a scale: weights are cut between blocks only.
        parts: the tensors that it is made of.
    """

    name: Quantization
    block: int
    parts: tuple[Part, ...]

    @abstractmethod
    def encode(self, weight_ND: Tensor) -> tuple[Tensor, ...]:
        """Round a weight; computed in float32, whatever its dtype."""

    @abstractmethod
    def decode(self, tensors: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Return the weight [N, D]; computed in float32 and rounded once."""

    def quantize(self, weight_ND: Tensor) -> "QuantizedWeight":
        """Quantize a weight of this rank.

        Raises:
            ParameterError: its rows don't divide into blocks.
        """
        self.check_inputs(weight_ND.shape[1])
        return QuantizedWeight(self, self.encode(weight_ND), weight_ND.shape[1])

    def empty(self, outputs: int, inputs: int, device: torch.device) -> "QuantizedWeight":
        """Allocate a weight for a checkpoint to fill.

        Raises:
            ParameterError: its rows don't divide into blocks.
        """
        self.check_inputs(inputs)
        tensors = (
            torch.empty(part.shape(outputs, inputs), dtype=part.dtype, device=device)
            for part in self.parts
        )
        return QuantizedWeight(self, tuple(tensors), inputs)

    def check_inputs(self, inputs: int) -> None:
        """Raise ParameterError if rows of so many values don't divide into blocks."""
        if inputs % self.block:
            raise ParameterError(
                f"quantization={self.name!r} takes {self.block} inputs of a layer together, and "
                f"this model has a layer with {inputs} on a rank: use fewer ranks, or 'int8'"
            )

    def tensor_names(self, weight: str) -> tuple[str, ...]:
        """Name the tensors of the parts in a checkpoint; `weight` ends in `.weight`."""
        return tuple(weight + part.suffix for part in self.parts)

    def stored(self, name: str, weight: "QuantizedWeight") -> dict[str, Tensor]:
        """Return what a checkpoint has for a whole weight, by name."""
        return dict(zip(self.tensor_names(name), weight.tensors, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A weight [N, D] in fewer bits.

    Attributes:
        format: that says what they mean.
        tensors: the format's parts.
        inputs: D.
    """

    format: Format
    tensors: tuple[Tensor, ...]
    inputs: int

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return len(self.tensors[0]), self.inputs

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def __getitem__(self, rows: slice) -> "QuantizedWeight":
        return QuantizedWeight(
            self.format, tuple(tensor[rows] for tensor in self.tensors), self.inputs
        )

    def detach(self) -> "QuantizedWeight":
        """Return itself: like a tensor, but it is never part of a graph."""
        return self

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [N, D] that it stands for, rounded to `dtype`."""
        return self.format.decode(self.tensors, dtype)


def grouped(values_ND: Tensor, size: int) -> Tensor:
    """Cut rows into groups of so many values: [N, D / size, size]."""
    return values_ND.reshape(len(values_ND), -1, size)


Weight: TypeAlias = Tensor | QuantizedWeight


def weight_shards(
    name: str, full_shape: tuple[int, int], slices: tuple[slice, slice], target: Weight
) -> Iterator[Shard]:
    """Yield what a checkpoint has for one weight; the arguments are those of `Shard`."""
    if isinstance(target, Tensor):
        yield Shard(name, full_shape, slices, target)
        return
    names = target.format.tensor_names(name)
    for part, stored, tensor in zip(target.format.parts, names, target.tensors, strict=True):
        yield Shard(stored, part.shape(*full_shape), part.cut(slices), tensor, part.source)
