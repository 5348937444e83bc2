"""Weights and activations in eight bits: symmetric, per output channel and per token.

The recipe of "W8A8, dynamic": each output channel's weights have one scale, found when the model
is loaded, and each token's activations have one, found as they come; products are summed in
32-bit integers. It is what LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) does to its inliers.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .base import Linear

# torch's integer matmul on CUDA takes more than 16 rows, and multiples of 8 of everything.
CUDA_ROWS = 32


class Int8Weight(NamedTuple):
    """A weight [N, D] as int8 `values` times one float32 of `scale` [N] per row."""

    values: Tensor
    scale: Tensor


def quantize(x_ND: Tensor) -> Int8Weight:
    """Round each row to multiples of its largest magnitude / 127."""
    scale_N = x_ND.abs().amax(-1).float().clamp_(min=1e-30) / 127
    values = (x_ND.float() / scale_N[:, None]).round_().to(torch.int8)
    return Int8Weight(values, scale_N)


class PlainInt8Linear(Linear):
    """x W^T + bias through torch's integer matmul."""

    def __init__(self, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        self._weight = quantize(weight_ND)
        self._bias = bias_N
        self.nbytes = sum(tensor.nbytes for tensor in self._weight)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Quantize x by row; the result has x's dtype."""
        rows = quantize(x_TD)
        sums_TN = _int_mm(rows.values, self._weight.values.t())
        out_TN = sums_TN.float().mul_(rows.scale[:, None]).mul_(self._weight.scale)
        if self._bias is not None:
            out_TN += self._bias
        return out_TN.to(x_TD.dtype)


def _int_mm(a_TD: Tensor, b_DN: Tensor) -> Tensor:
    rows = len(a_TD)
    if a_TD.is_cuda and (rows < CUDA_ROWS or rows % 8):
        a_TD = functional.pad(a_TD, (0, 0, 0, max(CUDA_ROWS, -(-rows // 8) * 8) - rows))
    return torch._int_mm(a_TD, b_DN)[:rows]  # noqa: SLF001 - torch has no public one
