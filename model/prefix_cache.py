"""Prompts that begin alike are computed once: finding pages by the tokens that led to them.

A page of keys and values depends on every token up to its end. So its name is a chain of digests:
that of the page before it, and its own tokens. Full pages are named while a prompt is computed and
stay findable until their memory is needed (`page_pool`).

Going on behind n tokens takes every page of [0, n) in full layers, but in sliding layers only those
of the last W - 1 tokens.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from .batch import LayerKind
from .hybrid_cache import HybridCache, SequenceCache

# 128 bits: no two prompts meet by chance, nor does anybody find two that do.
DIGEST_BYTES = 16


def page_digests(tokens: Sequence[int], page_size: int, salt: bytes = b"") -> list[bytes]:
    """Return the name of each full page of a prompt.

    Args:
        tokens: the prompt.
        page_size: tokens per page.
        salt: prompts share pages only with those of the same salt.
    """
    data = np.array(tokens, dtype=np.int32).tobytes()
    step = 4 * page_size
    digest = blake2b(salt, digest_size=DIGEST_BYTES).digest()
    digests = []
    for end in range(step, len(data) + 1, step):
        digest = blake2b(digest + data[end - step : end], digest_size=DIGEST_BYTES).digest()
        digests.append(digest)
    return digests


class PrefixCache:
    """Finds and names the pages of prompts in a cache."""

    def __init__(self, cache: HybridCache) -> None:
        self._cache = cache
        self._pool = cache.pool

    def depth(self, digests: Sequence[bytes]) -> int:
        """Return how many of the pages need not be computed again."""
        depth = len(digests)
        windowed = []
        for kind, window in self._cache.windows.items():
            if window is None:
                depth = self._full_depth(kind, digests, depth)
            else:
                windowed.append(kind)
        before = -1
        while before != depth:
            before = depth
            for kind in windowed:
                depth = self._windowed_depth(kind, digests, depth)
        return depth

    def hold(self, digests: Sequence[bytes]) -> SequenceCache:
        """Return a sequence that starts with as many of the pages as are found."""
        depth, size = self.depth(digests), self._cache.page_size
        pages: dict[LayerKind, list[int]] = {}
        for kind in self._cache.windows:
            first = self._cache.first_page(kind, depth * size)
            found = (self._pool.find((kind, digest)) for digest in digests[first:depth])
            pages[kind] = [page for page in found if page is not None]
        return self._cache.holding(pages, depth * size)

    def name(self, cache: SequenceCache, digests: Sequence[bytes], first: int, end: int) -> None:
        """Name pages [first, end) of a sequence, or put those in their place that have the name.

        So two sequences that computed the same prefix at the same time end up in the same pages.
        """
        for kind, table in cache.tables.items():
            for index in range(first, end):
                page, key = table.pages[index - table.dropped], (kind, digests[index])
                known = self._pool.find(key)
                if known is None:
                    self._pool.name(page, key)
                elif known != page:
                    self._cache.replace(cache, kind, index, known)

    def clear(self) -> None:
        """Forget every page that no sequence holds."""
        self._pool.forget_idle()

    def _has(self, kind: LayerKind, digest: bytes) -> bool:
        return self._pool.find((kind, digest)) is not None

    def _full_depth(self, kind: LayerKind, digests: Sequence[bytes], depth: int) -> int:
        """Return the first page that is missing."""
        for index in range(depth):
            if not self._has(kind, digests[index]):
                return index
        return depth

    def _windowed_depth(self, kind: LayerKind, digests: Sequence[bytes], depth: int) -> int:
        """Return the greatest depth, at most this one, whose window is there without a gap."""
        size = self._cache.page_size
        index = depth
        while index > self._cache.first_page(kind, depth * size):
            index -= 1
            if not self._has(kind, digests[index]):
                depth = index
        return depth
