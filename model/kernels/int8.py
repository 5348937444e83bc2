"""Weights and activations in eight bits: symmetric, per output channel and per token.

The recipe of "W8A8, dynamic": each output channel's weights have one scale, found when the model
is loaded, and each token's activations have one, found as they come; products are summed in
32-bit integers. It is what LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) does to its inliers.
"""

import torch
from torch import Tensor
from torch.nn import functional

from model.quantization import Weight, quantized
from model.quantization.rows import int8_rows

from .base import Linear

# torch's integer matmul on CUDA takes more than 16 rows, and multiples of 8 of everything.
CUDA_ROWS = 32


class PlainInt8Linear(Linear):
    """x W^T + bias through torch's integer matmul."""

    def __init__(self, weight_ND: Weight, bias_N: Tensor | None) -> None:
        weight = quantized(weight_ND, "int8")
        self._values_ND, self._scale_N = weight.tensors
        self._bias = bias_N
        self.nbytes = weight.nbytes

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Quantize x by row; the result has x's dtype."""
        rows = int8_rows(x_TD)
        sums_TN = _int_mm(rows.values, self._values_ND.t())
        out_TN = sums_TN.float().mul_(rows.scale[:, None]).mul_(self._scale_N)
        if self._bias is not None:
            out_TN += self._bias
        return out_TN.to(x_TD.dtype)


def _int_mm(a_TD: Tensor, b_DN: Tensor) -> Tensor:
    rows = len(a_TD)
    if a_TD.is_cuda and (rows < CUDA_ROWS or rows % 8):
        a_TD = functional.pad(a_TD, (0, 0, 0, max(CUDA_ROWS, -(-rows // 8) * 8) - rows))
    return torch._int_mm(a_TD, b_DN)[:rows]  # noqa: SLF001 - torch has no public one
