"""The memory behind the page ids: keys and values of every layer, on one rank.

Both layer groups draw page ids from one pool. The i-th full layer and the i-th sliding layer share
a tensor, since a page belongs to one group at a time; so a page costs the same whoever has it, and
the cache costs what the larger group needs.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from .batch import LayerKind
from .config import ModelConfig


class KVCache:
    """Pages of keys (already rotated) and values.

    Args:
        num_pages: page ids are 0 .. num_pages - 1.
        page_size: tokens per page; a slot is page * page_size + offset.
        kv_heads: KV heads of this rank.
        clear: fill it with zeros, for attention that reads whole pages.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_pages: int,
        page_size: int,
        kv_heads: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        clear: bool = False,
    ) -> None:
        self.page_size = page_size
        self._index = _index_within_kind(config.layer_types)
        shape = (_tensors(config), 2, num_pages, page_size, kv_heads, config.head_dim)
        # Else left as it is: nobody reads a slot before it was written.
        self._pages = torch.empty(shape, dtype=dtype, device=device)
        if clear:
            self._pages.zero_()
        # Kept, since to index a tensor costs as much as a small kernel.
        self._layers = [(keys, values) for keys, values in self._pages]

    @staticmethod
    def bytes_per_page(
        config: ModelConfig, page_size: int, kv_heads: int, dtype: torch.dtype
    ) -> int:
        """Bytes that one page takes on a rank with this many KV heads."""
        return 2 * _tensors(config) * page_size * kv_heads * config.head_dim * dtype.itemsize

    def layer(self, layer_index: int) -> tuple[Tensor, Tensor]:
        """Return a layer's key and value pages: [pages, page_size, kv_heads, head_dim] each."""
        return self._layers[self._index[layer_index]]

    def write(self, layer_index: int, k_TKH: Tensor, v_TKH: Tensor, slots_T: Tensor) -> None:
        """Store the keys and values of T tokens in their slots (int64)."""
        keys, values = self._pages[self._index[layer_index]].flatten(1, 2)
        keys.index_copy_(0, slots_T, k_TKH)
        values.index_copy_(0, slots_T, v_TKH)

    def copy_pages(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Copy page to page in all layers, one (from, to) pair after the other."""
        for source, target in pairs:
            self._pages[:, :, target].copy_(self._pages[:, :, source])


def _index_within_kind(layer_types: tuple[LayerKind, ...]) -> list[int]:
    return [layer_types[:i].count(kind) for i, kind in enumerate(layer_types)]


def _tensors(config: ModelConfig) -> int:
    return max(config.layer_types.count(kind) for kind in set(config.layer_types))
