"""Our own formats: eight bits with a scale per output, and four bits in groups.

In `int8` and `fp8` activations are rounded as well; see `model.kernels.int8` and `.fp8`. Shape
suffixes: N outputs, D inputs, G groups.
"""

import torch
from torch import Tensor

from . import nibbles
from .base import Format, Part, grouped
from .rows import fp8_rows, int8_rows

GROUP = 64
LEVELS = 15
SMALLEST_SCALE = 1e-30


class Int8Format(Format):
    """Multiples of each output's largest magnitude / 127."""

    name = "int8"
    block = 1
    parts = (Part("", torch.int8, 1), Part("_scale", torch.float32, None))

    def encode(self, weight_ND: Tensor) -> tuple[Tensor, ...]:
        """Round by row."""
        return tuple(int8_rows(weight_ND))

    def decode(self, tensors: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Multiply by the scales."""
        values_ND, scale_N = tensors
        return (values_ND * scale_N[:, None]).to(dtype)


class Fp8Format(Format):
    """float8_e4m3fn times each output's largest magnitude / 448."""

    name = "fp8"
    block = 1
    parts = (Part("", torch.float8_e4m3fn, 1), Part("_scale", torch.float32, None))

    def encode(self, weight_ND: Tensor) -> tuple[Tensor, ...]:
        """Round by row."""
        rows = fp8_rows(weight_ND)
        return rows.values, rows.scale[:, 0]

    def decode(self, tensors: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Multiply by the scales."""
        values_ND, scale_N = tensors
        return (values_ND.float() * scale_N[:, None]).to(dtype)


class Int4Format(Format):
    """Sixteen evenly spaced values from the least to the largest of each 64 of a row.

    A value is `low + code * scale`, `low` and `scale` in bfloat16: four and a half bits each.
    """

    name = "int4"
    block = GROUP
    parts = (
        Part("", torch.uint8, 2),
        Part("_scale", torch.bfloat16, GROUP),
        Part("_low", torch.bfloat16, GROUP),
    )

    def encode(self, weight_ND: Tensor) -> tuple[Tensor, ...]:
        """Round by groups; the codes fit the scales as they are kept."""
        groups = grouped(weight_ND.float(), GROUP)
        low_NG = groups.amin(-1).bfloat16()
        span_NG = groups.amax(-1) - low_NG.float()
        scale_NG = (span_NG / LEVELS).clamp_(min=SMALLEST_SCALE).bfloat16()
        codes = (groups - low_NG.float()[..., None]) / scale_NG.float()[..., None]
        codes = codes.round_().clamp_(0, LEVELS).to(torch.uint8)
        return nibbles.pack(codes.flatten(-2)), scale_NG, low_NG

    def decode(self, tensors: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Multiply and add."""
        packed, scale_NG, low_NG = tensors
        codes = grouped(nibbles.unpack(packed), GROUP).float()
        values = codes.mul_(scale_NG.float()[..., None]).add_(low_NG.float()[..., None])
        return values.flatten(-2).to(dtype)
