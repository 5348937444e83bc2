"""Weights in four or eight bits that are decoded for each product; activations stay as they are.

On any device and in any dtype: memory is saved, time is not.
"""

from torch import Tensor
from torch.nn import functional

from model.quantization import QuantizedWeight

from .base import Linear


class DecodedLinear(Linear):
    """x W^T + bias, with W decoded to x's dtype."""

    def __init__(self, weight: QuantizedWeight, bias_N: Tensor | None) -> None:
        self._weight, self._bias = weight, bias_N
        self.nbytes = weight.nbytes

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Decode and multiply."""
        return functional.linear(x_TD, self._weight.dequantize(x_TD.dtype), self._bias)
