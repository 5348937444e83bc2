"""Weights packed for the native kernels, and what is computed with them.

Shape suffixes are those of `model.kernels.base`.
"""

import enum
from abc import abstractmethod

import torch
from torch import Tensor

from model.huge_pages import prefer_huge_pages
from model.kernels.base import GatedLinear, Linear, TokenTable
from model.quantization import Weight, quantized

from .library import Library

PANEL = 32
HALF = PANEL // 2


class Finish(enum.IntEnum):
    """What the kernel does to the sums before it stores them; as in linear.cpp."""

    PLAIN = 0
    GEGLU = 1
    SOFT_CAP = 2


class Packed(Linear):
    """What packed weights of either kind have in common.

    Args:
        library: compiled.
        weight_ND: bfloat16, or quantized.
        bias_N: or None.
        finish: GEGLU takes a weight of gate and up, one after the other, and returns N / 2 columns.

    Attributes:
        width: columns that are returned.
    """

    def __init__(
        self,
        library: Library,
        weight_ND: Weight,
        bias_N: Tensor | None = None,
        finish: Finish = Finish.PLAIN,
    ) -> None:
        width, self._depth = weight_ND.shape
        gated = finish is Finish.GEGLU
        order = _order(width, gated=gated)
        self._library = library
        self._finish = finish
        self.width = width // 2 if gated else width
        self._panels = len(order) // PANEL
        self._bias = None if bias_N is None else _ordered(bias_N.float(), order)
        self._pack(weight_ND, order)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Return [T, N] in bfloat16; the last dimension of x is contiguous."""
        return self._multiply(x_TD, self._finish, 0.0, self.width)

    def sums(self, x_TD: Tensor) -> Tensor:
        """Return all packed columns as they lie, with nothing done to them but the bias."""
        return self._multiply(x_TD, Finish.PLAIN, 0.0, self._panels * PANEL)

    @abstractmethod
    def _pack(self, weight_ND: Weight, order: Tensor) -> None:
        """Keep the weight's rows in this order, in panels."""

    @abstractmethod
    def _multiply(self, x_TD: Tensor, finish: Finish, cap: float, width: int) -> Tensor:
        """Return `width` columns; see linear.cpp."""


class PackedLinear(Packed):
    """x -> finish(x W^T + bias) in bfloat16."""

    def _pack(self, weight_ND: Weight, order: Tensor) -> None:
        assert isinstance(weight_ND, Tensor)
        self.values = prefer_huge_pages(torch.empty(len(order), self._depth, dtype=torch.bfloat16))
        self.nbytes = self.values.nbytes
        weight_ND = weight_ND.contiguous()
        self._library.pack_bf16(
            weight_ND.data_ptr(),
            self._depth,
            order.data_ptr(),
            self._panels,
            self.values.data_ptr(),
            torch.get_num_threads(),
        )

    def capped(self, x_TD: Tensor, cap: float) -> Tensor:
        """Return [T, N], soft-capped."""
        return self._multiply(x_TD, Finish.SOFT_CAP, cap, self.width)

    def _multiply(self, x_TD: Tensor, finish: Finish, cap: float, width: int) -> Tensor:
        rows = x_TD.shape[0]  # len() of a tensor costs ten times as much
        out_TN = torch.empty(rows, width, dtype=torch.bfloat16)
        assert x_TD.stride(1) == 1
        self._library.linear_bf16(
            x_TD.data_ptr(),
            x_TD.stride(0),
            rows,
            self._depth,
            self.values.data_ptr(),
            self._panels,
            None if self._bias is None else self._bias.data_ptr(),
            finish,
            cap,
            out_TN.data_ptr(),
            width,
            torch.get_num_threads(),
        )
        return out_TN


class PackedInt8Linear(Packed):
    """The same with weights and activations in eight bits; see `model.kernels.int8`."""

    def _pack(self, weight_ND: Weight, order: Tensor) -> None:
        values, scale = quantized(weight_ND, "int8").tensors
        self._scale = _ordered(scale, order)
        # The activations are stored plus 128, for the unsigned side of the instruction.
        self._offset = _ordered(128 * values.sum(-1, dtype=torch.int32), order)
        self._values = prefer_huge_pages(torch.empty(len(order), self._depth, dtype=torch.int8))
        self.nbytes = self._values.nbytes + self._scale.nbytes + self._offset.nbytes
        self._library.pack_int8(
            values.data_ptr(),
            self._depth,
            order.data_ptr(),
            self._panels,
            self._values.data_ptr(),
            torch.get_num_threads(),
        )

    def _multiply(self, x_TD: Tensor, finish: Finish, cap: float, width: int) -> Tensor:
        rows, threads = x_TD.shape[0], torch.get_num_threads()
        bytes_TD = torch.empty(rows, self._depth, dtype=torch.uint8)
        scale_T = torch.empty(rows, dtype=torch.float)
        out_TN = torch.empty(rows, width, dtype=torch.bfloat16)
        assert x_TD.stride(1) == 1
        self._library.quantize_rows(
            x_TD.data_ptr(),
            x_TD.stride(0),
            rows,
            self._depth,
            bytes_TD.data_ptr(),
            scale_T.data_ptr(),
            threads,
        )
        self._library.linear_int8(
            bytes_TD.data_ptr(),
            scale_T.data_ptr(),
            rows,
            self._depth,
            self._values.data_ptr(),
            self._scale.data_ptr(),
            self._offset.data_ptr(),
            self._panels,
            None if self._bias is None else self._bias.data_ptr(),
            finish,
            cap,
            out_TN.data_ptr(),
            width,
            threads,
        )
        return out_TN


class PackedGated(GatedLinear):
    """gelu_tanh(gate) * up from one packed weight of either kind, made with Finish.GEGLU."""

    def __init__(self, library: Library, packed: Packed) -> None:
        self._library = library
        self._packed = packed
        self.nbytes = packed.nbytes

    def __call__(self, x_TD: Tensor) -> Tensor:
        """Return the product [T, F], taken before it is stored."""
        return self._packed(x_TD)

    def halves(self, x_TD: Tensor) -> Tensor:
        """Return gate and up [T, 2 F], which lie in turns of 16 columns, one after the other."""
        rows, width = x_TD.shape[0], self._packed.width
        turns = self._packed.sums(x_TD).view(rows, -1, 2, HALF)
        return turns.transpose(1, 2).flatten(2)[:, :, :width].flatten(1)

    def product(self, halves_TF: Tensor) -> Tensor:
        """Take the product of halves."""
        rows, width = halves_TF.shape[0], self._packed.width
        halves_TF = halves_TF.contiguous()
        out_TF = torch.empty(rows, width, dtype=torch.bfloat16)
        self._library.geglu(
            halves_TF.data_ptr(), rows, width, out_TF.data_ptr(), torch.get_num_threads()
        )
        return out_TF


class PackedTable(TokenTable):
    """One packed table for lookups and for the head."""

    def __init__(self, library: Library, weight_VD: Tensor) -> None:
        self._depth = weight_VD.shape[1]
        self._library = library
        self._head = PackedLinear(library, weight_VD)
        self.nbytes = self._head.nbytes

    def embed(self, ids_T: Tensor, scale: float) -> Tensor:
        """Gather the rows out of their panels."""
        out_TD = torch.empty(ids_T.shape[0], self._depth, dtype=torch.bfloat16)
        self._library.embed(
            self._head.values.data_ptr(),
            self._depth,
            ids_T.data_ptr(),
            ids_T.shape[0],
            scale,
            out_TD.data_ptr(),
            torch.get_num_threads(),
        )
        return out_TD

    def project(self, x_RD: Tensor, softcap: float | None) -> Tensor:
        """Project, and cap on the way out."""
        return self._head(x_RD) if softcap is None else self._head.capped(x_RD, softcap)


def _order(width: int, *, gated: bool) -> Tensor:
    """Return which row of the weight each packed column is, int64; -1 pads the last panel."""
    if not gated:
        return _padded(torch.arange(width), PANEL)
    gate = _padded(torch.arange(width // 2), HALF).view(-1, HALF)
    up = torch.where(gate < 0, gate, gate + width // 2)
    return torch.cat((gate, up), dim=1).flatten()


def _padded(rows: Tensor, multiple: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, -len(rows) % multiple), value=-1)


def _ordered(values_N: Tensor, order: Tensor) -> Tensor:
    return torch.where(order < 0, 0, values_N[order.clamp(min=0)]).contiguous()
