"""Rows rounded to eight bits, each with a scale of its own: of weights and of activations."""

from typing import NamedTuple

import torch
from torch import Tensor

FP8_LARGEST = torch.finfo(torch.float8_e4m3fn).max
SMALLEST_SCALED = 1e-12


class Int8Rows(NamedTuple):
    """Rows [R, D] as int8 `values` times one float32 of `scale` [R] per row."""

    values: Tensor
    scale: Tensor


class Fp8Rows(NamedTuple):
    """Rows [R, D] as float8_e4m3fn `values` times one float32 of `scale` [R, 1] per row."""

    values: Tensor
    scale: Tensor


def int8_rows(x_RD: Tensor) -> Int8Rows:
    """Round each row to multiples of its largest magnitude / 127."""
    scale_R = x_RD.abs().amax(-1).float().clamp_(min=1e-30) / 127
    values = (x_RD.float() / scale_R[:, None]).round_().to(torch.int8)
    return Int8Rows(values, scale_R)


def fp8_rows(x_RD: Tensor) -> Fp8Rows:
    """Round each row to multiples of its largest magnitude / 448, in plain torch."""
    scale_R1 = x_RD.abs().amax(-1, keepdim=True).float().clamp_(min=SMALLEST_SCALED) / FP8_LARGEST
    # Rounding must not lead past the largest number: there is no infinity behind it, only NaN.
    values = (x_RD.float() / scale_R1).clamp_(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn)
    return Fp8Rows(values, scale_R1)
