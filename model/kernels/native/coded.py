"""Weights in four or eight bits packed for the native kernels, which decode them on the way.

Codes are multiplied as bfloat16 numbers, which all but NF4's sixteen are exactly, and scales come
afterwards, in float32. A row's bits don't depend on the others. Shape suffixes are those of
`model.kernels.base`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.huge_pages import prefer_huge_pages
from model.params import Quantization
from model.quantization import QuantizedWeight, Weight
from model.quantization.bitsandbytes import NF4_VALUES

from .packed import PANEL, Finish, Packed

# What the kernel decodes at a time: rows of the weight are multiples of it.
GROUP = 64


class _Kind(NamedTuple):
    """A format to the kernel: its number in coded.cpp, and the values of its codes if few."""

    number: int
    table: tuple[float, ...] = ()


_KINDS: dict[Quantization, _Kind] = {
    "int4": _Kind(0, tuple(map(float, range(16)))),
    "bnb-nf4": _Kind(1, NF4_VALUES),
    "bnb-int8": _Kind(2),
}


def decodes(name: Quantization) -> bool:
    """Whether weights of this format are kept coded here."""
    return name in _KINDS


class PackedCodedLinear(Packed):
    """x -> finish(x W^T + bias) in bfloat16, with W decoded to bfloat16 a piece at a time."""

    def _pack(self, weight_ND: Weight, order: Tensor) -> None:
        assert isinstance(weight_ND, QuantizedWeight)
        self._kind, table = _KINDS[weight_ND.format.name]
        self._table = torch.tensor(table + table, dtype=torch.bfloat16)
        codes, *scales = weight_ND.tensors
        if table:
            codes = _by_parity(codes)
        words_ND = codes.contiguous().view(torch.int32)
        self._codes = prefer_huge_pages(
            torch.empty(self._panels, words_ND.shape[1], PANEL, dtype=torch.int32)
        )
        self._codes.copy_(_rows(words_ND, order).view(self._panels, PANEL, -1).transpose(1, 2))
        self._scales = [self._ordered_scales(scale, order) for scale in scales]
        self.nbytes = self._codes.nbytes + sum(scale.nbytes for scale in self._scales)

    def _ordered_scales(self, scale: Tensor, order: Tensor) -> Tensor:
        """Lay out scales [N] or [N, groups] as the kernel reads them: [panels, (groups,) 32]."""
        rows = _rows(scale, order)
        ordered = rows.view(self._panels, PANEL, *rows.shape[1:])
        return ordered.transpose(1, -1).contiguous()

    def _multiply(self, x_TD: Tensor, finish: Finish, cap: float, width: int) -> Tensor:
        assert not cap, "the head, which alone is capped, is never quantized"
        rows = x_TD.shape[0]
        out_TN = torch.empty(rows, width, dtype=torch.bfloat16)
        assert x_TD.stride(1) == 1
        scale, *low = self._scales
        sums_TG = torch.empty(rows, self._depth // GROUP) if low else None
        self._library.linear_coded(
            self._kind,
            x_TD.data_ptr(),
            x_TD.stride(0),
            rows,
            self._depth,
            self._codes.data_ptr(),
            scale.data_ptr(),
            low[0].data_ptr() if low else None,
            self._table.data_ptr(),
            None if sums_TG is None else sums_TG.data_ptr(),
            self._panels,
            None if self._bias is None else self._bias.data_ptr(),
            finish,
            out_TN.data_ptr(),
            width,
            torch.get_num_threads(),
        )
        return out_TN


def _by_parity(packed: Tensor) -> Tensor:
    """Put the codes of each eight inputs in the order 0 2 4 6, 1 3 5 7, the first in low bits."""
    pairs = packed.reshape(len(packed), -1, 4)
    first, second = pairs[..., ::2], pairs[..., 1::2]
    even = (first >> 4) | (second & 0xF0)
    odd = (first & 0x0F) | (second << 4)
    return torch.cat((even, odd), dim=-1).flatten(-2)


def _rows(values_N: Tensor, order: Tensor) -> Tensor:
    """Take rows in this order; -1 gives zeros."""
    rows = values_N[order.clamp(min=0)]
    rows[order < 0] = 0
    return rows
