"""Pages by number: who holds how many, and which can be found again by what they hold."""

from collections import Counter, OrderedDict
from collections.abc import Hashable


class PagePool:
    """Reference-counted page ids 0 .. num_pages-1.

    A page may be given a key. It then stays findable when nobody holds it any more, until its
    memory is needed: `take` uses pages without a key first, then the one released longest ago.

    Args:
        num_pages: how many there are.
        max_idle: `take` prefers findable pages when more than this many are held by nobody, so
            that memory which was never touched stays untouched.
    """

    def __init__(self, num_pages: int, max_idle: int | None = None) -> None:
        self.num_pages = num_pages
        self._max_idle = num_pages if max_idle is None else max_idle
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._keys: dict[int, Hashable] = {}
        self._pages: dict[Hashable, int] = {}

    @property
    def num_free(self) -> int:
        """Pages that nobody holds, findable ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Pages that nobody holds and that can be found by their key."""
        return len(self._idle)

    def references(self, page: int) -> int:
        """Return how many tables hold the page."""
        return self._references[page]

    def take(self) -> int:
        """Return a page for new content, held once. The caller has made sure that there is one."""
        if self._free and len(self._idle) <= self._max_idle:
            page = self._free.pop()
        else:
            assert self._idle, "more was admitted than the cache holds"
            page, _ = self._idle.popitem(last=False)
            del self._pages[self._keys.pop(page)]
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """Hold a page once more: one that is held, or one that was found by its key."""
        if self._references[page] == 0:
            assert page in self._idle, f"page {page} is free"
            del self._idle[page]
        self._references[page] += 1

    def release(self, page: int) -> None:
        """Hold a page once less; it is free, or idle if it has a key, when nobody holds it."""
        assert self._references[page] > 0, f"page {page} is free already"
        self._references[page] -= 1
        if self._references[page] == 0:
            if page in self._keys:
                self._idle[page] = None
            else:
                self._free.append(page)

    def name(self, page: int, key: Hashable) -> None:
        """Give a page that is held, and has no key, a key that no other page has."""
        assert self._references[page] > 0, f"page {page} is free"
        assert page not in self._keys, f"page {page} has a key"
        assert key not in self._pages, "the key is another page's"
        self._keys[page] = key
        self._pages[key] = page

    def find(self, key: Hashable) -> int | None:
        """Return the page of a key."""
        return self._pages.get(key)

    def forget_idle(self) -> None:
        """Forget the keys of all pages that nobody holds."""
        for page in self._idle:
            del self._pages[self._keys.pop(page)]
        self._free.extend(self._idle)
        self._idle.clear()

    def check_integrity(self, held: Counter[int]) -> None:
        """Assert that exactly these pages are held, each as often as counted."""
        for page, references in enumerate(self._references):
            assert references == held[page], f"page {page}: {references} != {held[page]} holders"
        unheld = sorted([*self._free, *self._idle])
        assert unheld == [p for p in range(self.num_pages) if not held[p]]
        assert self._idle.keys() <= self._keys.keys()
        assert not self._keys.keys() & set(self._free), "a page without an owner has a key"
        assert {key: page for page, key in self._keys.items()} == self._pages
