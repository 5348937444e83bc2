"""Which page holds which keys: the bookkeeping of the KV cache, in plain Python.

Full layers remember everything, sliding layers only their window, so each kind is a layer group
with a page table of its own per sequence. Both draw from one pool of equal pages: Gemma 2 has as
many sliding layers as full ones, and nothing has to be split in advance between short contexts
(where both need the same) and long ones (where the full group needs more).

Pages are counted by reference. A fork shares all pages of its parent; the last, half-filled page
is copied by whoever writes to it first while it is shared. The tensors behind the page ids are
`kv_cache.KVCache`'s.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from .batch import Ints, LayerKind
from .page_pool import PagePool

Windows = Mapping[LayerKind, int | None]
Copies = list[tuple[int, int]]


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
    """What one sequence has cached: `length` tokens, and where, per layer group.

    `forked` says that the page it ends in may be another sequence's too.
    """

    tables: dict[LayerKind, PageTable]
    length: int = 0
    forked: bool = False


class HybridCache:
    """Page tables of all sequences over one pool.

    Args:
        num_pages: pages in the pool.
        page_size: tokens per page.
        windows: the layer groups of the model: None for full layers, else the window W in tokens
            (a query sees itself and the W - 1 tokens before it).
        max_idle: pages that are kept for prompts to come, see `PagePool`.
    """

    def __init__(
        self, num_pages: int, page_size: int, windows: Windows, max_idle: int | None = None
    ) -> None:
        self.page_size = page_size
        self.windows = dict(windows)
        self.pool = PagePool(num_pages, max_idle)
        self._least_window = min(filter(None, windows.values()), default=sys.maxsize)

    def new_sequence(self) -> SequenceCache:
        """Return an empty cache for a sequence."""
        return SequenceCache({kind: PageTable() for kind in self.windows})

    def extend(self, cache: SequenceCache, count: int) -> Copies:
        """Make room for `count` more tokens; returns the (from, to) page copies to make first."""
        copies: Copies = []
        end, size, pool = cache.length + count, self.page_size, self.pool
        mid_page = cache.length % size
        if mid_page and mid_page + count <= size and not cache.forked:
            cache.length = end
            return copies
        for table in cache.tables.values():
            pages = table.pages
            if mid_page and pool.references(pages[-1]) > 1:
                shared, own = pages[-1], pool.take()
                copies.append((shared, own))
                pool.release(shared)
                pages[-1] = own
                table.changed()
            missing = -(-end // size) - table.dropped - len(pages)
            if missing > 0:
                pages.extend(pool.take() for _ in range(missing))
                table.changed()
        cache.length, cache.forked = end, False
        return copies

    def first_page(self, kind: LayerKind, length: int) -> int:
        """Return the first page, counted from the sequence's start, that position `length` sees."""
        window = self.windows[kind]
        return 0 if window is None else max(0, length - window + 1) // self.page_size

    def trim(self, cache: SequenceCache) -> None:
        """Free the pages that no token from `length` on can see."""
        if cache.length < self._least_window:
            return
        for kind, window in self.windows.items():
            if window is None:
                continue
            table = cache.tables[kind]
            gone = self.first_page(kind, cache.length) - table.dropped
            if gone > 0:
                for page in table.pages[:gone]:
                    self.pool.release(page)
                del table.pages[:gone]
                table.dropped += gone
                table.changed()

    def fork(self, cache: SequenceCache) -> SequenceCache:
        """Return a second sequence with the same tokens, sharing every page.

        Args:
            cache: the first; it has been trimmed.
        """
        for kind, table in cache.tables.items():
            assert table.dropped == self.first_page(kind, cache.length)
        child = self.holding({k: t.pages for k, t in cache.tables.items()}, cache.length)
        cache.forked = child.forked = True
        return child

    def holding(self, pages: Mapping[LayerKind, Iterable[int]], length: int) -> SequenceCache:
        """Return a sequence of `length` tokens in these pages, each of which is held once more.

        Args:
            pages: of each layer group, those that position `length` sees.
            length: tokens.
        """
        cache = SequenceCache({}, length)
        for kind, held in pages.items():
            cache.tables[kind] = table = PageTable()
            table.pages, table.dropped = list(held), self.first_page(kind, length)
            for page in table.pages:
                self.pool.share(page)
        return cache

    def replace(self, cache: SequenceCache, kind: LayerKind, index: int, page: int) -> None:
        """Let another page, with the same content, be a sequence's index-th from its start."""
        table = cache.tables[kind]
        self.pool.share(page)
        self.pool.release(table.pages[index - table.dropped])
        table.pages[index - table.dropped] = page
        table.changed()

    def release(self, cache: SequenceCache) -> None:
        """Give back everything a sequence holds, the pages at its end first.

        Those that can be found again are given up in this order: a prefix is lost from its end.
        """
        ends = (reversed(table.pages) for table in cache.tables.values())
        for page in chain.from_iterable(zip_longest(*ends)):
            if page is not None:
                self.pool.release(page)
        for table in cache.tables.values():
            table.pages.clear()
            table.dropped = 0
            table.changed()
        cache.length = 0

    def demand(self, prompt: int, chunk: int, branches: Iterable[int], shared: int = 0) -> int:
        """Return an upper bound of the pages that a request holds at any one time.

        Args:
            prompt: tokens of its prompt.
            chunk: tokens of it that one step computes at most.
            branches: tokens that each continuation of the prompt stores after it. One
                continuation goes on in the prompt's own pages; more of them fork.
            shared: pages of each group at the start of the prompt that somebody else holds, and
                that are not counted.
        """
        lengths = list(branches)
        if len(lengths) <= 1:
            return self._beyond(shared * self.page_size, prompt + sum(lengths), chunk)
        return self._beyond(shared * self.page_size, prompt, chunk) + sum(
            self._beyond(prompt, prompt + m, min(m, chunk)) for m in lengths
        )

    def held(self, length: int, *, windows: bool = True) -> int:
        """Return the pages that a sequence holds between two steps.

        Args:
            length: tokens.
            windows: False counts as if no layer had one.
        """
        pages = -(-length // self.page_size)
        gone = sum(self.first_page(kind, length) for kind in self.windows) if windows else 0
        return pages * len(self.windows) - gone

    def prefix_demand(self, depth: int, shared: int = 0) -> int:
        """Return the pages that hold a prefix of `depth` pages, ready to be gone on from.

        Args:
            depth: pages.
            shared: those at its start that are not counted, as in `demand`.
        """
        return sum(
            depth - max(shared, self.first_page(kind, depth * self.page_size))
            for kind in self.windows
        )

    def _beyond(self, start: int, end: int, chunk: int) -> int:
        """Bound the pages that tokens [start, end) hold while they are computed chunk by chunk.

        A page that the token before `start` has begun counts: it is copied.
        """
        own = -(-end // self.page_size) - start // self.page_size
        pages = 0
        for window in self.windows.values():
            # A window that does not start on a page border touches one page more.
            seen = own if window is None else -(-(window - 1 + chunk) // self.page_size) + 1
            pages += min(own, seen)
        return pages

    def check_integrity(self, live: Iterable[SequenceCache]) -> None:
        """Assert that the pool and the tables of all live sequences agree, and hold no excess."""
        held: Counter[int] = Counter()
        for cache in live:
            for kind, table in cache.tables.items():
                held.update(table.pages)
                assert table.dropped == 0 or table.dropped <= self.first_page(kind, cache.length)
                covered = (table.dropped + len(table.pages)) * self.page_size
                assert cache.length <= covered < cache.length + self.page_size or not table.pages
                assert table.dropped == 0 or self.windows[kind] is not None
        self.pool.check_integrity(held)
