"""Weights and activations as float8_e4m3fn, scaled by row, through the tensor cores' fp8 matmul.

Each output channel's weights have one scale, found when the model is loaded, and each token's
activations have one, found as they come (Micikevicius et al. 2022, arXiv:2209.05433, for the
format). Products are summed in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.errors import ParameterError
from model.quantization import Weight, quantized
from model.quantization.rows import Fp8Rows, fp8_rows
from model.quantization_config import check_device

from .base import Linear

# Ada and Hopper.
LEAST_CAPABILITY = (8, 9)
# What torch._scaled_mm wants of both dimensions of a weight.
MULTIPLE = 16


def require_fp8(device: torch.device) -> None:
    """Make sure that this device multiplies in fp8.

    Raises:
        ParameterError: it does not.
    """
    check_device("fp8", device.type)
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        raise ParameterError(
            "quantization='fp8' needs a CUDA device of compute capability 8.9 or more (Ada, "
            f"Hopper), this one has {capability[0]}.{capability[1]}; use 'int8' or 'none'"
        )


class Fp8Linear(Linear):
    """x W^T + bias through torch._scaled_mm.

    Args:
        weight_ND: in the model's dtype, or quantized; both dimensions are multiples of 16.
        bias_N: likewise.
        quantizer: of the activations.

    Raises:
        ParameterError: this shape is not for the fp8 matmul.
    """

    def __init__(
        self,
        weight_ND: Weight,
        bias_N: Tensor | None,
        quantizer: Callable[[Tensor], Fp8Rows] = fp8_rows,
    ) -> None:
        if any(size % MULTIPLE for size in weight_ND.shape):
            raise ParameterError(
                f"quantization='fp8' needs layers whose sizes are multiples of {MULTIPLE}, not "
                f"{tuple(weight_ND.shape)}; use 'int8' or 'none'"
            )
        weight = quantized(weight_ND, "fp8")
        self._values_ND, scale_N = weight.tensors
        self._scale_1N = scale_N[None]
        self._bias = bias_N
        self._quantizer = quantizer
        self.nbytes = weight.nbytes

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Quantize x by row; the product is rounded to bfloat16, and given in x's dtype."""
        rows = self._quantizer(x_TD)
        out_TN = torch._scaled_mm(  # noqa: SLF001 - torch has no public one
            rows.values,
            self._values_ND.t(),
            rows.scale,
            self._scale_1N,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        if self._bias is not None:
            out_TN += self._bias
        return out_TN.to(x_TD.dtype)
