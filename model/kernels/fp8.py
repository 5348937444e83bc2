"""Weights and activations as float8_e4m3fn, scaled by row, through the tensor cores' fp8 matmul.

Each output channel's weights have one scale, found when the model is loaded, and each token's
activations have one, found as they come (Micikevicius et al. 2022, arXiv:2209.05433, for the
format). Products are summed in float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from model.errors import ParameterError

from .base import Linear

LARGEST = torch.finfo(torch.float8_e4m3fn).max
SMALLEST_SCALED = 1e-12
# Ada and Hopper.
LEAST_CAPABILITY = (8, 9)
# What torch._scaled_mm wants of both dimensions of a weight.
MULTIPLE = 16


class Fp8Rows(NamedTuple):
    """Rows [R, D] as float8_e4m3fn `values` times one float32 of `scale` [R, 1] per row."""

    values: Tensor
    scale: Tensor


def quantize(x_RD: Tensor) -> Fp8Rows:
    """Round each row to multiples of its largest magnitude / 448, in plain torch."""
    scale_R1 = x_RD.abs().amax(-1, keepdim=True).float().clamp_(min=SMALLEST_SCALED) / LARGEST
    # Rounding must not lead past the largest number: there is no infinity behind it, only NaN.
    values = (x_RD.float() / scale_R1).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return Fp8Rows(values, scale_R1)


def require_fp8(device: torch.device) -> None:
    """Make sure that this device multiplies in fp8.

    Raises:
        ParameterError: it does not.
    """
    if device.type != "cuda":
        raise ParameterError(
            "quantization='fp8' needs a CUDA device of compute capability 8.9 or more (Ada, "
            f"Hopper), not {device.type}; use 'int8' or 'none'"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        raise ParameterError(
            "quantization='fp8' needs a CUDA device of compute capability 8.9 or more (Ada, "
            f"Hopper), this one has {capability[0]}.{capability[1]}; use 'int8' or 'none'"
        )


class Fp8Linear(Linear):
    """x W^T + bias through torch._scaled_mm.

    Args:
        weight_ND: in the model's dtype; both dimensions are multiples of 16.
        bias_N: likewise.
        quantizer: of the activations.

    Raises:
        ParameterError: this shape is not for the fp8 matmul.
    """

    def __init__(
        self,
        weight_ND: Tensor,
        bias_N: Tensor | None,
        quantizer: Callable[[Tensor], Fp8Rows] = quantize,
    ) -> None:
        if any(size % MULTIPLE for size in weight_ND.shape):
            raise ParameterError(
                f"quantization='fp8' needs layers whose sizes are multiples of {MULTIPLE}, not "
                f"{tuple(weight_ND.shape)}; use 'int8' or 'none'"
            )
        self._weight = quantize(weight_ND)
        self._bias = bias_N
        self._quantizer = quantizer
        self.nbytes = sum(tensor.nbytes for tensor in self._weight)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Quantize x by row; the product is rounded to bfloat16, and given in x's dtype."""
        rows = self._quantizer(x_TD)
        out_TN = torch._scaled_mm(  # noqa: SLF001 - torch has no public one
            rows.values,
            self._weight.values.t(),
            rows.scale,
            self._weight.scale.t(),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        if self._bias is not None:
            out_TN += self._bias
        return out_TN.to(x_TD.dtype)
