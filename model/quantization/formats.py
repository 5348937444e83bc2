"""The formats by their names, and weights in them."""

import torch
from torch import nn

from model.params import Quantization

from .base import Format, QuantizedWeight, Weight
from .bitsandbytes import BnbInt8Format, Nf4Format
from .own import Fp8Format, Int4Format, Int8Format

FORMATS: dict[Quantization, Format] = {
    kind.name: kind() for kind in (Int8Format, Int4Format, Fp8Format, Nf4Format, BnbInt8Format)
}


def quantized(weight: Weight, quantization: Quantization) -> QuantizedWeight:
    """Quantize a weight; one that is quantized already stays as it is."""
    if isinstance(weight, QuantizedWeight):
        return weight
    return FORMATS[quantization].quantize(weight)


def format_name(weight: Weight, quantization: Quantization) -> Quantization:
    """Say in which format a weight will be kept: its own, or the one that was asked for."""
    return weight.format.name if isinstance(weight, QuantizedWeight) else quantization


def empty_weight(
    outputs: int,
    inputs: int,
    stored: Quantization,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> nn.Parameter | QuantizedWeight:
    """Allocate a weight for a checkpoint to fill, in the format that it is stored in.

    Raises:
        ParameterError: rows of so many inputs can't be in this format.
    """
    if stored == "none":
        empty = torch.empty(outputs, inputs, dtype=dtype, device=device)
        return nn.Parameter(empty, requires_grad=False)
    return FORMATS[stored].empty(outputs, inputs, device)
