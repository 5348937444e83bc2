"""Prefixes that are held for the groups that share them, and the pages promised to everybody.

What a group shares is computed by one of its requests, the leader. Then it is pinned, until nobody
waits for it and nobody who runs has started from it, and counted once: each request is promised
only what it may hold besides.
"""

from collections.abc import Iterable, Sequence

from model.hybrid_cache import HybridCache, SequenceCache
from model.prefix_cache import PrefixCache

from .admission import Admission
from .prefix_tree import Group, PrefixTree


class Pins:
    """All pins, and the sum of all promises.

    Args:
        cache: the pages.
        prefixes: their names.
        tree: the groups; requests outside of it share nothing on purpose.
        chunk: tokens that one step computes at most.
    """

    def __init__(
        self, cache: HybridCache, prefixes: PrefixCache, tree: PrefixTree, chunk: int
    ) -> None:
        self._cache = cache
        self._prefixes = prefixes
        self._tree = tree
        self._chunk = chunk
        self._pinned: dict[Group, None] = {}
        self._promised = 0

    def has_room(self, pages: int) -> bool:
        """Whether so many pages more can be promised."""
        return self._promised + pages <= self._cache.pool.num_pages

    def place(self, admission: Admission) -> tuple[Group | None, list[Group]]:
        """Return the pin to go on from, and the groups to compute the prefix of, shortest first."""
        opening: list[Group] = []
        for group in admission.group.path if admission.group is not None else ():
            if group.pin is not None:
                return group, opening[::-1]
            if group.waiting > 1:
                opening.append(group)
        return None, opening[::-1]

    def need(self, admission: Admission, base: Group | None, opening: Sequence[Group]) -> int:
        """Return the most pages at any one time, those of the pins to come included."""
        cache, length, depth = self._cache, admission.prompt_tokens, _depth(base)
        pins = most = 0
        for group in opening:
            most = max(most, pins + cache.demand(length, self._chunk, (), depth))
            pins += cache.prefix_demand(group.depth, depth)
            depth = group.depth
        return max(most, pins + cache.demand(length, self._chunk, admission.branches, depth))

    def promise(
        self, admission: Admission, base: Group | None, opening: list[Group], pages: int
    ) -> None:
        """Promise pages to a request that begins, and let it lead the groups."""
        self._promised += pages
        admission.base, admission.opening, admission.pages = base, opening, pages
        if base is not None:
            base.users += 1
        for group in opening:
            group.leader = admission

    def reached(self, admission: Admission) -> None:
        """Pin what a leader has computed by now."""
        length = admission.prompt.cache.length
        while admission.opening and length >= admission.opening[0].depth * self._cache.page_size:
            self._open(admission, admission.opening.pop(0))
        if length >= admission.prompt_tokens:
            self.leave(admission)

    def leave(self, admission: Admission) -> None:
        """Take a request out of the tree: its prompt is computed, or it was dropped."""
        group = admission.group
        if group is not None:
            self._tree.remove(admission)
            self._settle(group)

    def end(self, admission: Admission) -> None:
        """Take back what a request was promised that has no sequences any more."""
        self._promised -= admission.pages
        for group in admission.opening:
            group.leader = None
            self._offer(group)
        self.leave(admission)
        if admission.base is not None:
            admission.base.users -= 1
            self._settle(admission.base)

    def clear(self) -> None:
        """Unpin everything, while nothing runs; who waits in the groups begins them anew."""
        for group in sorted(self._pinned, key=lambda group: -group.depth):
            assert not group.users
            self._unpin(group)
            self._offer(group)

    def _open(self, leader: Admission, group: Group) -> None:
        """Pin the prefix that a leader has computed, if there is room, and let the others begin."""
        group.leader = None
        pages = self._cache.prefix_demand(group.depth, _depth(leader.base))
        # With room for the pins to come, if possible.
        for opening in (leader.opening, ()):
            own = self.need(leader, group, opening)
            more = pages + own - leader.pages
            if group.waiting and self.has_room(more):
                self._pin(leader, group, pages)
                self._promised += more
                leader.pages = own
                break
        self._offer(group)

    def _pin(self, leader: Admission, group: Group, pages: int) -> None:
        """Pin a prefix, with its leader as the first user."""
        group.pin = self._prefixes.hold(group.digests[: group.depth])
        assert group.pin.length == group.depth * self._cache.page_size
        # The leader used its base; from now on the group does, and the leader the group.
        group.pages, group.base = pages, leader.base
        group.users, leader.base = 1, group
        self._pinned[group] = None

    def _unpin(self, group: Group) -> None:
        assert group.pin is not None
        self._cache.release(group.pin)
        self._promised -= group.pages
        if group.base is not None:
            group.base.users -= 1
        group.pin = group.base = None
        group.pages = 0
        del self._pinned[group]

    def _offer(self, group: Group) -> None:
        """Let a group begin that no longer waits for its prefix, or clear it away."""
        if group.waiting:
            self._tree.offer(group, group.best_rank)
        else:
            self._settle(group)

    def _settle(self, group: Group) -> None:
        """Unpin and remove groups that nobody waits in, and that nobody who runs started from."""
        for inner in list(group.path):
            if inner.waiting or inner.users or inner.leader is not None:
                continue
            if inner.pin is not None:
                self._unpin(inner)
            assert inner.parent is not None
            key = inner.digests[inner.parent.depth]
            if not inner.children and inner.parent.children.get(key) is inner:
                del inner.parent.children[key]

    def check_integrity(self, running: Sequence[Admission]) -> None:
        """Assert that promises, pages, pins and their users add up."""
        promised = sum(a.pages for a in running) + sum(g.pages for g in self._pinned)
        assert self._promised == promised <= self._cache.pool.num_pages
        pins = [group.pin for group in self._pinned if group.pin is not None]
        assert len(pins) == len(self._pinned)
        users = dict.fromkeys(self._pinned, 0)
        bases = [*(a.base for a in running), *(g.base for g in self._pinned)]
        for base in filter(None, bases):
            users[base] += 1
        assert users == {group: group.users for group in self._pinned}
        for admission in running:
            own = _pages(s.cache for s in admission.sequences) - _pinned_pages(admission.base)
            assert len(own) <= admission.pages, "a request holds more pages than it was promised"
        for group in self._pinned:
            own = _pinned_pages(group) - _pinned_pages(group.base)
            assert len(own) <= group.pages, "a pin holds more pages than were counted"
        live = [sequence.cache for admission in running for sequence in admission.sequences]
        self._cache.check_integrity([*live, *pins])


def _depth(group: Group | None) -> int:
    return 0 if group is None else group.depth


def _pages(caches: Iterable[SequenceCache]) -> set[int]:
    return {page for cache in caches for table in cache.tables.values() for page in table.pages}


def _pinned_pages(base: Group | None) -> set[int]:
    pages: set[int] = set()
    while base is not None:
        assert base.pin is not None
        pages |= _pages([base.pin])
        base = base.base
    return pages
