"""Requests by the pages that their prompts share, and in which order they are begun.

A radix tree over page names: since those are chained, two prompts share their first d pages if
their d-th names are equal, and where they part is found by bisection. Adding a request costs the
number of borders on its way, not the number of pages or of requests.
"""

import itertools
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from model.hybrid_cache import SequenceCache

from .admission import Admission, Rank


class Group:
    """Requests whose prompts share their first `depth` pages, and more than any larger group's.

    Attributes:
        parent: the group of those that share fewer; None for that of all requests.
        digests: of the shared pages; there may be more.
        depth: how many are shared.
        children: groups that share more, and single requests that do, by the next page's name. A
            request stays here until its prompt is computed: who comes meanwhile waits for it.
        waiting: requests that have not begun, here and below.
        users: running requests that started from its pin, and groups whose own pin goes on from it.
        leader: who computes the shared pages right now; the others wait for it.
        pin: the shared pages, held while anybody is going to start from them.
        base: the pin that its own goes on from.
        pages: that the pin holds, apart from its base's.
    """

    __slots__ = (
        "_heap", "base", "children", "depth", "digests", "leader", "pages", "parent", "pin",
        "rank", "users", "waiting",
    )  # fmt: skip

    def __init__(self, parent: "Group | None", digests: list[bytes], depth: int) -> None:
        self.parent = parent
        self.digests = digests
        self.depth = depth
        self.children: dict[bytes, Group | Admission] = {}
        self.waiting = 0
        self.users = 0
        self.leader: Admission | None = None
        self.pin: SequenceCache | None = None
        self.base: Group | None = None
        self.pages = 0
        # Under which it stands in its parent's heap; it may stand there under worse ones too.
        self.rank: Rank | None = None
        self._heap: list[tuple[Rank, int, Group | Admission]] = []

    @property
    def path(self) -> "Iterator[Group]":
        """This group, and those around it from the inside, without that of all requests."""
        group = self
        while group.parent is not None:
            yield group
            group = group.parent

    @property
    def best_rank(self) -> Rank | None:
        """The best rank in it, or a better one that is gone."""
        return self._heap[0][0] if self._heap else None

    def push(self, rank: Rank, number: int, item: "Group | Admission") -> None:
        """Offer a request or a smaller group to be begun."""
        heappush(self._heap, (rank, number, item))

    def best(self) -> "Group | Admission | None":
        """Return what is to be begun first, and forget what is no longer to be begun."""
        while self._heap:
            item = self._heap[0][-1]
            if isinstance(item, Admission):
                if item.group is self and item.waits:
                    return item
            elif item.parent is self:
                if item.waiting and item.leader is None and item.pin is None:
                    return item
                item.rank = None
            heappop(self._heap)
        return None

    def pass_over(self) -> None:
        """Forget the group at the top: nothing in it can be begun now."""
        _, _, item = heappop(self._heap)
        assert isinstance(item, Group)
        item.rank = None


class PrefixTree:
    """All groups. It moves no pages: see `prefix_groups`."""

    def __init__(self, page_size: int) -> None:
        self.root = Group(None, [], 0)
        self._page_size = page_size
        self._numbers = itertools.count()
        # Pinned groups in which somebody waits: they are drained, the latest first, before
        # anything else is begun.
        self._open: dict[Group, None] = {}

    def add(self, admission: Admission) -> None:
        """Put a request in its place."""
        group = self.root
        while (key := admission.page_after(group.depth)) is not None:
            child = group.children.get(key)
            if child is None:
                group.children[key] = admission
                break
            shared = _shared_pages(admission, child, group.depth)
            if isinstance(child, Group) and shared == child.depth:
                group = child
            else:
                group = self._split(group, key, child, shared)
        admission.group = group
        _count(group, 1)
        group.push(admission.rank, next(self._numbers), admission)
        self.offer(group, admission.rank)

    def offer(self, group: Group, rank: Rank | None) -> None:
        """Let a group be begun, unless its prefix is being computed; drained, if it is pinned."""
        while rank is not None and group.parent is not None:
            if group.pin is not None:
                self._open[group] = None
            if group.pin is not None or group.leader is not None:
                return
            if group.rank is None or rank < group.rank:
                group.rank = rank
                group.parent.push(rank, next(self._numbers), group)
            group = group.parent

    def next(self) -> Admission | None:
        """Return who should begin first; None if nobody waits, or all for a prefix on its way."""
        for group in reversed(list(self._open)):
            if not group.waiting or group.pin is None:
                del self._open[group]
            elif (found := self._best_below(group)) is not None:
                return found
        return self._best_below(self.root)

    def begin(self, admission: Admission) -> None:
        """Count a request no longer among those that wait."""
        assert admission.group is not None
        _count(admission.group, -1)

    def remove(self, admission: Admission) -> None:
        """Take a request out: its prompt is computed, or it was dropped."""
        group = admission.group
        assert group is not None
        if admission.waits:
            _count(group, -1)
        admission.group = None
        key = admission.page_after(group.depth)
        if key is not None and group.children.get(key) is admission:
            del group.children[key]

    def check_integrity(self, admissions: Iterable[Admission]) -> None:
        """Assert that groups hold who they should, and that none is left over."""
        counts: Counter[Group] = Counter()
        inhabited = set()
        for admission in admissions:
            if admission.group is not None:
                inhabited.add(admission.group)
            if admission.waits:
                assert admission.group is not None
                counts.update([self.root, *admission.group.path])
        stack = [self.root]
        while stack:
            group = stack.pop()
            assert group.waiting == counts[group]
            assert group.parent is None or group.leader is None or group in group.leader.opening
            for key, child in group.children.items():
                assert child.digests[group.depth] == key
                if isinstance(child, Group):
                    assert child.parent is group
                    assert child.waiting or child.users or child.children or child in inhabited
                    stack.append(child)
                else:
                    assert child.group is group

    def _best_below(self, top: Group) -> Admission | None:
        group = top
        while True:
            item = group.best()
            if isinstance(item, Admission):
                return item
            if item is not None:
                group = item
            elif group is top or group.parent is None:
                return None
            else:
                group = group.parent
                group.pass_over()

    def _split(self, parent: Group, key: bytes, child: Group | Admission, depth: int) -> Group:
        """Put a group of `depth` pages between a group and what it holds under a name."""
        parent.children[key] = group = Group(parent, child.digests, depth)
        if isinstance(child, Admission):
            child.group = group
            if (after := child.page_after(depth)) is not None:
                group.children[after] = child
            if child.waits:
                group.waiting = 1
                group.push(child.rank, next(self._numbers), child)
                self.offer(group, child.rank)
            leader = None if child.waits else child
        else:
            child.parent, child.rank = group, None
            group.children[child.digests[depth]] = child
            group.waiting = child.waiting
            self.offer(child, child.best_rank)
            leader = child.leader
        if leader is not None and leader.prompt.cache.length < depth * self._page_size:
            group.leader = leader
            insort(leader.opening, group, key=lambda other: other.depth)
        return group


def _count(group: Group, change: int) -> None:
    group.waiting += change
    for outer in group.path:
        if outer.parent is not None:
            outer.parent.waiting += change


def _shared_pages(admission: Admission, child: Group | Admission, least: int) -> int:
    """Return how many pages a request shares with another or with a group: least + 1 or more."""
    limit = child.reusable if isinstance(child, Admission) else child.depth
    low, high = least + 1, min(admission.reusable, limit)
    while low < high:
        middle = (low + high + 1) // 2
        if admission.digests[middle - 1] == child.digests[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
