"""The kernels in Triton around torch's matmuls. Shape suffixes are those of `kernels.base`."""

import torch
from torch import Tensor

from model.kernels.base import GatedLinear, Kernels, Linear, TokenTable
from model.kernels.fp8 import Fp8Linear
from model.kernels.plain import PlainGated, PlainKernels, PlainTable
from model.kv_cache import KVCache
from model.params import Quantization
from model.quantization import Weight, format_name
from model.quantization.rows import Fp8Rows

from . import device as programs

# Columns of one program where a row is cut into blocks.
BLOCK = 1024
# Values that a warp reads at once: 32 lanes of 16 bytes in bfloat16.
WARP_VALUES = 256
MOST_WARPS = 16


class TritonKernels(Kernels):
    """Norms, gates, rotations and the soft cap in one pass each; matmuls are torch's."""

    name = "triton"
    angles_dtype = torch.float

    def __init__(self) -> None:
        self._plain = PlainKernels()

    def probe(self, device: torch.device) -> None:
        """Compile and run one kernel; raises what Triton raises where it can't."""
        x_TD = torch.ones(1, 16, dtype=torch.bfloat16, device=device)
        self.rms_norm(x_TD, torch.ones(16, device=device), 1e-6).sum().item()

    def linear(
        self, weight_ND: Weight, bias_N: Tensor | None, quantization: Quantization
    ) -> Linear:
        """Return torch's linear, or one of fewer bits."""
        if format_name(weight_ND, quantization) == "fp8":
            return Fp8Linear(weight_ND, bias_N, quantize_fp8)
        return self._plain.linear(weight_ND, bias_N, quantization)

    def gated(self, weight_FD: Weight, quantization: Quantization) -> GatedLinear:
        """Return the projection, and its halves' product in one pass."""
        return TritonGated(self.linear(weight_FD, None, quantization))

    def token_table(self, weight_VD: Tensor) -> TokenTable:
        """Return the table as it is, capped in one pass."""
        return TritonTable(weight_VD)

    def rms_norm(self, x_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        """Norm each row."""
        rows, size = x_TD.shape
        out_TD = torch.empty_like(x_TD, memory_format=torch.contiguous_format)
        block, warps = _block(size)
        programs.rms_norm[(rows,)](
            x_TD, gain_D, out_TD, x_TD.stride(0), size, eps, BLOCK=block, num_warps=warps
        )
        return out_TD

    def add_norm(
        self, x_TD: Tensor, branch_TD: Tensor, branch_gain_D: Tensor, gain_D: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Add the normed branch to x in place, and norm the sum."""
        rows, size = x_TD.shape
        out_TD = torch.empty_like(x_TD)
        block, warps = _block(size)
        programs.add_norm[(rows,)](
            x_TD,
            branch_TD,
            branch_gain_D,
            gain_D,
            out_TD,
            size,
            eps,
            BLOCK=block,
            num_warps=warps,
        )
        return x_TD, out_TD

    def rotate_and_store(
        self,
        qkv_TM: Tensor,
        angles: tuple[Tensor, Tensor],
        cache: KVCache,
        layer_index: int,
        slots_T: Tensor,
    ) -> Tensor:
        """Rotate the queries where they are, and the keys on their way to the cache."""
        keys, values = cache.layer(layer_index)
        kv_heads, size = keys.shape[2:]
        heads_TMH = qkv_TM.view(len(qkv_TM), -1, size)
        heads = heads_TMH.shape[1] - 2 * kv_heads
        block, warps = _block(size // 2)
        programs.rotate_and_store[(len(qkv_TM), heads + 2 * kv_heads)](
            qkv_TM,
            *angles,
            slots_T,
            keys,
            values,
            qkv_TM.stride(0),
            heads,
            kv_heads,
            HALF=size // 2,
            BLOCK=block,
            num_warps=warps,
        )
        return heads_TMH[:, :heads]


class TritonGated(PlainGated):
    """A projection to gate and up, and their product in one pass."""

    def product(self, halves_TF: Tensor) -> Tensor:
        """Return gelu_tanh(gate) * up."""
        rows, width = halves_TF.shape[0], halves_TF.shape[1] // 2
        out_TF = halves_TF.new_empty(rows, width)
        programs.gelu_gate[(rows, -(-width // BLOCK))](halves_TF, out_TF, width, BLOCK=BLOCK)
        return out_TF


class TritonTable(PlainTable):
    """torch's lookup and product, the latter capped in one pass."""

    def project(self, x_RD: Tensor, softcap: float | None) -> Tensor:
        """Project and cap, rounding after each."""
        logits_RV = super().project(x_RD, None)
        if softcap is not None:
            count = logits_RV.numel()
            programs.soft_cap[(-(-count // BLOCK),)](logits_RV, count, softcap, BLOCK=BLOCK)
        return logits_RV


def quantize_fp8(x_TD: Tensor) -> Fp8Rows:
    """Round each row to float8_e4m3fn, as `model.quantization.rows.fp8_rows`."""
    rows, size = x_TD.shape
    values = torch.empty(rows, size, dtype=torch.float8_e4m3fn, device=x_TD.device)
    scale = torch.empty(rows, 1, dtype=torch.float, device=x_TD.device)
    block, warps = _block(size)
    programs.quantize_fp8[(rows,)](
        x_TD, values, scale, x_TD.stride(0), size, BLOCK=block, num_warps=warps
    )
    return Fp8Rows(values, scale)


def _block(size: int) -> tuple[int, int]:
    """Return the power of two that holds a row, and the warps that share it."""
    block = 1 << (size - 1).bit_length()
    return block, max(1, min(MOST_WARPS, block // WARP_VALUES))
