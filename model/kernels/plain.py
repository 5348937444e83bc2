"""The kernels in plain torch, on any device: the yardstick of the others.

Every rounding is where transformers' `models/gemma2/modeling_gemma2.py` has it. Shape suffixes are
those of `base`, and N query heads, K KV heads.
"""

import torch
from torch import Tensor
from torch.nn import functional

from model.kv_cache import KVCache
from model.params import Quantization
from model.quantization import Weight, format_name, quantized

from .base import GatedLinear, Kernels, Linear, TokenTable
from .decoded import DecodedLinear
from .fp8 import Fp8Linear
from .int8 import PlainInt8Linear


class PlainKernels(Kernels):
    """Plain torch; weights stay as they are."""

    name = "plain"
    angles_dtype = None

    def linear(
        self, weight_ND: Weight, bias_N: Tensor | None, quantization: Quantization
    ) -> Linear:
        """Return torch's own linear, or one of fewer bits."""
        name = format_name(weight_ND, quantization)
        if name == "int8":
            return PlainInt8Linear(weight_ND, bias_N)
        if name == "fp8":
            return Fp8Linear(weight_ND, bias_N)
        if name == "none":
            assert isinstance(weight_ND, Tensor)
            return PlainLinear(weight_ND, bias_N)
        return DecodedLinear(quantized(weight_ND, name), bias_N)

    def gated(self, weight_FD: Weight, quantization: Quantization) -> GatedLinear:
        """Return the projection and its two halves' product."""
        return PlainGated(self.linear(weight_FD, None, quantization))

    def token_table(self, weight_VD: Tensor) -> TokenTable:
        """Return the table as it is."""
        return PlainTable(weight_VD)

    def rms_norm(self, x_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        """Norm each row."""
        y_TD = x_TD.float()
        scale_T1 = y_TD.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        return (y_TD * scale_T1).mul_(gain_D).to(x_TD.dtype)

    def add_norm(
        self, x_TD: Tensor, branch_TD: Tensor, branch_gain_D: Tensor, gain_D: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Add the normed branch, which leaves x alone, and norm the sum."""
        x_TD = x_TD + self.rms_norm(branch_TD, branch_gain_D, eps)
        return x_TD, self.rms_norm(x_TD, gain_D, eps)

    def rotate_and_store(
        self,
        qkv_TM: Tensor,
        angles: tuple[Tensor, Tensor],
        cache: KVCache,
        layer_index: int,
        slots_T: Tensor,
    ) -> Tensor:
        """Rotate queries and keys as one; see `base`."""
        kv_heads, size = cache.layer(layer_index)[0].shape[2:]
        heads_TMH = qkv_TM.view(len(qkv_TM), -1, size)
        rotated = rotate(heads_TMH[:, :-kv_heads], *angles)
        q_TNH, k_TKH = rotated[:, :-kv_heads], rotated[:, -kv_heads:]
        cache.write(layer_index, k_TKH, heads_TMH[:, -kv_heads:], slots_T)
        return q_TNH


class PlainLinear(Linear):
    """torch's own linear."""

    def __init__(self, weight_ND: Tensor, bias_N: Tensor | None) -> None:
        self._weight, self._bias = weight_ND, bias_N
        self.nbytes = weight_ND.nbytes

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Return x W^T + bias."""
        return functional.linear(x_TD, self._weight, self._bias)


class PlainGated(GatedLinear):
    """A projection to gate and up, and their product."""

    def __init__(self, project: Linear) -> None:
        self._project = project
        self.nbytes = project.nbytes

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Return gelu_tanh(gate) * up."""
        return self.product(self.halves(x_TD))

    def halves(self, x_TD: Tensor) -> Tensor:
        """Project."""
        return self._project(x_TD)

    def product(self, halves_TF: Tensor) -> Tensor:
        """Return gelu_tanh(gate) * up."""
        gate_TF, up_TF = halves_TF.chunk(2, dim=-1)
        return functional.gelu(gate_TF, approximate="tanh").mul_(up_TF)


class PlainTable(TokenTable):
    """The table as it is in the checkpoint."""

    def __init__(self, weight_VD: Tensor) -> None:
        self._weight = weight_VD
        self.nbytes = weight_VD.nbytes

    def embed(self, ids_T: Tensor, scale: float) -> Tensor:
        """Look rows up."""
        return functional.embedding(ids_T, self._weight) * scale

    def project(self, x_RD: Tensor, softcap: float | None) -> Tensor:
        """Project and cap, rounding after each operation."""
        logits_RV = functional.linear(x_RD, self._weight)
        if softcap is None:
            return logits_RV
        return logits_RV.div_(softcap).tanh_().mul_(softcap)


def rotate(x_TNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + H/2]) by its position's angle; cos and sin are [T, 1, H/2]."""
    left, right = x_TNH.chunk(2, dim=-1)
    out = torch.empty_like(x_TNH, memory_format=torch.contiguous_format)
    out_left, out_right = out.chunk(2, dim=-1)
    torch.mul(left, cos, out=out_left).sub_(right * sin)
    torch.mul(right, cos, out=out_right).add_(left * sin)
    return out
