"""Which page holds which keys: the bookkeeping of the KV cache, in plain Python.

Full layers remember everything, sliding layers only their window, so each kind is a layer group
with a page table of its own per sequence. Both draw from one pool of equal pages: Gemma 2 has as
many sliding layers as full ones, and nothing has to be split in advance between short contexts
(where both need the same) and long ones (where the full group needs more).

Pages are counted by reference. A fork shares all pages of its parent; the last, half-filled page
is copied by whoever writes to it first while it is shared. The tensors behind the page ids are
`kv_cache.KVCache`'s.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .batch import Ints, LayerKind

Windows = Mapping[LayerKind, int | None]
Copies = list[tuple[int, int]]


class PagePool:
    """Reference-counted page ids 0 .. num_pages-1."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def references(self, page: int) -> int:
        """Return how many tables hold the page."""
        return self._references[page]

    def take(self) -> int:
        """Return a free page, held once. The caller has made sure that there is one."""
        assert self._free, "the scheduler admitted more than the cache holds"
        page = self._free.pop()
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """Hold a page once more."""
        assert self._references[page] > 0, f"page {page} is free"
        self._references[page] += 1

    def release(self, page: int) -> None:
        """Hold a page once less; it is free when nobody holds it."""
        assert self._references[page] > 0, f"page {page} is free already"
        self._references[page] -= 1
        if self._references[page] == 0:
            self._free.append(page)

    def check_integrity(self, held: Counter[int]) -> None:
        """Assert that exactly these pages are held, each as often as counted."""
        for page, references in enumerate(self._references):
            assert references == held[page], f"page {page}: {references} != {held[page]} holders"
        assert sorted(self._free) == [p for p in range(self.num_pages) if not held[p]]


class PageTable:
    """The pages of one sequence in one layer group, in the order of positions.

    `dropped` pages have left the window: the first page left holds positions from
    dropped * page_size on.
    """

    __slots__ = ("_array", "dropped", "pages")

    def __init__(self) -> None:
        self.pages: list[int] = []
        self.dropped = 0
        self._array: Ints | None = None

    def array(self) -> Ints:
        """Return the page ids as an array, made anew only after a change."""
        if self._array is None:
            self._array = np.array(self.pages, dtype=np.int64)
        return self._array

    def changed(self) -> None:
        """Forget the array."""
        self._array = None


@dataclass(slots=True)
class SequenceCache:
    """What one sequence has cached: `length` tokens, and where, per layer group."""

    tables: dict[LayerKind, PageTable]
    length: int = 0


class HybridCache:
    """Page tables of all sequences over one pool.

    Args:
        num_pages: pages in the pool.
        page_size: tokens per page.
        windows: the layer groups of the model: None for full layers, else the window W in tokens
            (a query sees itself and the W - 1 tokens before it).
    """

    def __init__(self, num_pages: int, page_size: int, windows: Windows) -> None:
        self.page_size = page_size
        self.windows = dict(windows)
        self.pool = PagePool(num_pages)

    def new_sequence(self) -> SequenceCache:
        """Return an empty cache for a sequence."""
        return SequenceCache({kind: PageTable() for kind in self.windows})

    def extend(self, cache: SequenceCache, count: int) -> Copies:
        """Make room for `count` more tokens; returns the (from, to) page copies to make first."""
        copies: Copies = []
        end = cache.length + count
        for table in cache.tables.values():
            if cache.length % self.page_size and self.pool.references(table.pages[-1]) > 1:
                shared, own = table.pages[-1], self.pool.take()
                copies.append((shared, own))
                self.pool.release(shared)
                table.pages[-1] = own
                table.changed()
            missing = -(-end // self.page_size) - table.dropped - len(table.pages)
            if missing > 0:
                table.pages.extend(self.pool.take() for _ in range(missing))
                table.changed()
        cache.length = end
        return copies

    def slots(self, cache: SequenceCache, kind: LayerKind, start: int) -> list[int]:
        """Return the slots (page * page_size + offset) of positions [start, length)."""
        table, size = cache.tables[kind], self.page_size
        return [
            table.pages[position // size - table.dropped] * size + position % size
            for position in range(start, cache.length)
        ]

    def trim(self, cache: SequenceCache) -> None:
        """Free the pages that no token from `length` on can see."""
        for kind, window in self.windows.items():
            if window is None:
                continue
            table = cache.tables[kind]
            gone = max(0, cache.length - window + 1) // self.page_size - table.dropped
            if gone > 0:
                for page in table.pages[:gone]:
                    self.pool.release(page)
                del table.pages[:gone]
                table.dropped += gone
                table.changed()

    def fork(self, cache: SequenceCache) -> SequenceCache:
        """Return a second sequence with the same tokens, sharing every page."""
        copy = SequenceCache({}, cache.length)
        for kind, table in cache.tables.items():
            copy.tables[kind] = twin = PageTable()
            twin.pages, twin.dropped = list(table.pages), table.dropped
            for page in table.pages:
                self.pool.share(page)
        return copy

    def release(self, cache: SequenceCache) -> None:
        """Give back everything a sequence holds."""
        for table in cache.tables.values():
            for page in table.pages:
                self.pool.release(page)
            table.pages.clear()
            table.changed()
        cache.length = 0

    def demand(self, prompt: int, chunk: int, branches: Iterable[int]) -> int:
        """Return an upper bound of the pages that a request holds at any one time.

        Args:
            prompt: tokens of its prompt.
            chunk: tokens of it that one step computes at most.
            branches: tokens that each continuation of the prompt stores after it. One
                continuation goes on in the prompt's own pages; more of them fork.
        """
        lengths = list(branches)
        if len(lengths) <= 1:
            return self._chain(prompt + sum(lengths), chunk)
        return self._chain(prompt, chunk) + sum(
            self._branch(prompt, m, min(m, chunk)) for m in lengths
        )

    def _chain(self, length: int, chunk: int) -> int:
        pages = 0
        for window in self.windows.values():
            seen = length if window is None else min(length, window - 1 + chunk)
            # A window that does not start on a page border touches one page more.
            spill = 1 if window is not None and seen < length else 0
            pages += -(-seen // self.page_size) + spill
        return pages

    def _branch(self, prompt: int, length: int, chunk: int) -> int:
        own = -(-(prompt + length) // self.page_size) - prompt // self.page_size
        return sum(
            own if window is None else min(own, -(-(window - 1 + chunk) // self.page_size) + 1)
            for window in self.windows.values()
        )

    def check_integrity(self, live: Iterable[SequenceCache]) -> None:
        """Assert that the pool and the tables of all live sequences agree, and hold no excess."""
        held: Counter[int] = Counter()
        for cache in live:
            for kind, table in cache.tables.items():
                held.update(table.pages)
                covered = (table.dropped + len(table.pages)) * self.page_size
                assert cache.length <= covered < cache.length + self.page_size or not table.pages
                assert table.dropped == 0 or self.windows[kind] is not None
        self.pool.check_integrity(held)
