"""The kernels of the compiled library. Shape suffixes are those of `model.kernels.base`."""

import torch
from torch import Tensor

from model.kernels.base import GatedLinear, Kernels, Linear, TokenTable
from model.kernels.plain import PlainKernels
from model.kv_cache import KVCache
from model.params import Quantization
from model.quantization import Weight, format_name, quantized

from .coded import GROUP, PackedCodedLinear, decodes
from .library import Library, load
from .packed import Finish, Packed, PackedGated, PackedInt8Linear, PackedLinear, PackedTable

# What the loops step over at a time, without a remainder.
LANES = 16
DEPTH = 4


class NativeKernels(Kernels):
    """bfloat16 on a CPU with AVX-512; `why_not` has said that it can be used.

    Shapes that the compiled loops have no room for go to plain torch: a matmul whose depth is no
    multiple of 4 (64 where weights are decoded), a hidden size that is none of 16, a head size that
    is none of 32.
    """

    name = "native"
    angles_dtype = torch.float

    def __init__(self) -> None:
        library = load()
        assert isinstance(library, Library), library
        self._library = library
        self._plain = PlainKernels()
        self.peaks = self._peaks

    def linear(
        self, weight_ND: Weight, bias_N: Tensor | None, quantization: Quantization
    ) -> Linear:
        """Pack the weight."""
        if not _fits(weight_ND, quantization):
            return self._plain.linear(weight_ND, bias_N, quantization)
        return self._packed(weight_ND, bias_N, quantization, Finish.PLAIN)

    def gated(self, weight_FD: Weight, quantization: Quantization) -> GatedLinear:
        """Pack gate and up side by side, so that their product is taken before it is stored."""
        if not _fits(weight_FD, quantization):
            return self._plain.gated(weight_FD, quantization)
        packed = self._packed(weight_FD, None, quantization, Finish.GEGLU)
        return PackedGated(self._library, packed)

    def _packed(
        self, weight: Weight, bias_N: Tensor | None, quantization: Quantization, finish: Finish
    ) -> Packed:
        name = format_name(weight, quantization)
        if decodes(name):
            return PackedCodedLinear(self._library, quantized(weight, name), bias_N, finish)
        kind = PackedInt8Linear if name == "int8" else PackedLinear
        return kind(self._library, weight, bias_N, finish)

    def token_table(self, weight_VD: Tensor) -> TokenTable:
        """Pack the table once for both uses."""
        if weight_VD.shape[1] % DEPTH:
            return self._plain.token_table(weight_VD)
        return PackedTable(self._library, weight_VD)

    def rms_norm(self, x_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        """Norm each row."""
        rows, size = x_TD.shape
        if size % LANES:
            return self._plain.rms_norm(x_TD, gain_D, eps)
        out_TD = torch.empty_like(x_TD)
        self._library.rms_norm(
            x_TD.data_ptr(),
            gain_D.data_ptr(),
            eps,
            rows,
            size,
            out_TD.data_ptr(),
            torch.get_num_threads(),
        )
        return out_TD

    def add_norm(
        self, x_TD: Tensor, branch_TD: Tensor, branch_gain_D: Tensor, gain_D: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Add the normed branch to x in place, and norm the sum, in one pass over each row."""
        rows, size = x_TD.shape
        if size % LANES:
            return self._plain.add_norm(x_TD, branch_TD, branch_gain_D, gain_D, eps)
        out_TD = torch.empty_like(x_TD)
        self._library.add_norm(
            x_TD.data_ptr(),
            branch_TD.data_ptr(),
            branch_gain_D.data_ptr(),
            gain_D.data_ptr(),
            eps,
            rows,
            size,
            out_TD.data_ptr(),
            torch.get_num_threads(),
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
        if size % (2 * LANES):
            return self._plain.rotate_and_store(qkv_TM, angles, cache, layer_index, slots_T)
        rows = qkv_TM.shape[0]
        heads_TMH = qkv_TM.view(rows, -1, size)
        heads = heads_TMH.shape[1] - 2 * kv_heads
        cos, sin = angles
        self._library.rotate_and_store(
            qkv_TM.data_ptr(),
            qkv_TM.stride(0),
            rows,
            heads,
            kv_heads,
            size,
            cos.data_ptr(),
            sin.data_ptr(),
            slots_T.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            torch.get_num_threads(),
        )
        return heads_TMH[:, :heads]

    def _peaks(self, logits_RV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, width = logits_RV.shape
        assert logits_RV.stride(1) == 1
        columns_R = torch.empty(rows, dtype=torch.int64)
        scores_R = torch.empty(rows, dtype=torch.float)
        log_p_R = torch.empty(rows, dtype=torch.float)
        self._library.peaks(
            logits_RV.data_ptr(),
            logits_RV.stride(0),
            rows,
            width,
            columns_R.data_ptr(),
            scores_R.data_ptr(),
            log_p_R.data_ptr(),
            torch.get_num_threads(),
        )
        return columns_R, scores_R, log_p_R


def _fits(weight: Weight, quantization: Quantization) -> bool:
    """Whether a packed product has room for the weight's depth."""
    name = format_name(weight, quantization)
    if name == "fp8":  # refused on a CPU before it comes here; plain torch can still multiply it
        return False
    # A row of activations is quantized sixteen values at a time.
    step = GROUP if decodes(name) else LANES if name == "int8" else DEPTH
    return weight.shape[1] % step == 0
