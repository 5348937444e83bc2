"""Who begins next, with which pages of others, and what was promised to those who have begun.

A request begins only when all pages that it can ever need are free or idle: lengths are known
beforehand, so nothing is preempted. Pages that a group shares are computed by one of its requests,
pinned until the group has no more use for them, and counted once.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from model.hybrid_cache import HybridCache, SequenceCache
from model.params import SchedulePolicy
from model.prefix_cache import PrefixCache

from .admission import Admission
from .prefix_tree import Group, PrefixTree

# How many that come later may begin before one that waits, about.
MAX_OVERTAKEN = 256


class Admitter:
    """The waiting requests, and the promises made to the running ones.

    With "shard", requests that share a prefix begin together: one computes it, the others wait for
    it and go on from it, and no other group is begun as long as there are pages for this one. What
    has the longest answer, then the longest prompt, begins first. Nobody starves: a request is due
    when `max_overtaken` requests more have begun than waited before the first step after it was
    added, and those that are due begin in the order of their arrival. With "fcfs", all do.

    Args:
        cache: the pages.
        chunk: tokens that one step computes at most.
        max_sequences: sequences that run at the same time at most.
        policy: the order.
        max_overtaken: see above.
    """

    def __init__(
        self,
        cache: HybridCache,
        chunk: int,
        max_sequences: int,
        policy: SchedulePolicy,
        max_overtaken: int = MAX_OVERTAKEN,
    ) -> None:
        self.cache = cache
        self.prefixes = PrefixCache(cache)
        self.max_sequences = max_sequences
        self.waiting: OrderedDict[str, Admission] = OrderedDict()
        self.begun = 0
        self.reusable_tokens = 0
        self.reused_tokens = 0
        self._chunk = chunk
        self._max_overtaken = max_overtaken
        self._tree = PrefixTree(cache.page_size) if policy == "shard" else None
        self._arrivals = 0
        self._new: list[Admission] = []
        self._pinned: dict[Group, None] = {}
        self._promised_pages = 0
        self._promised_places = 0

    def add(self, admission: Admission) -> None:
        """Queue a request that an empty engine has room for."""
        admission.arrival = self._arrivals
        self._arrivals += 1
        self.waiting[admission.request_id] = admission
        if self._tree is not None:
            self._tree.add(admission)
            self._new.append(admission)

    def begin_next(self) -> Admission | None:
        """Promise pages and places to the next request and give it what is computed of its prompt.

        Returns:
            None if nobody waits, there is no room, or a prefix has to be computed first.
        """
        admission = self._next()
        if admission is None:
            return None
        base, opening = self._place(admission)
        pages = self._need(admission, base, opening)
        if not self._fits(pages, admission.width):
            if self._promised_places:
                return None
            # Nothing runs, so nothing will be freed: pins are in the way.
            self._unpin_all()
            base, opening = None, []
            pages = self._need(admission, base, opening)
            assert self._fits(pages, admission.width), "a request larger than the cache"
        self._begin(admission, base, opening, pages)
        return admission

    def computed(self, admission: Admission, start: int) -> None:
        """Take note that the prompt was computed from token `start` on, before it is trimmed."""
        cache, size = admission.prompt.cache, self.cache.page_size
        end = min(cache.length // size, len(admission.digests))
        self.prefixes.name(cache, admission.digests, start // size, end)
        while admission.opening and cache.length >= admission.opening[0].depth * size:
            self._open(admission, admission.opening.pop(0))
        if cache.length >= admission.prompt_tokens:
            self._leave_tree(admission)

    def drop(self, request_id: str) -> bool:
        """Forget a request that waits; False if there is none."""
        admission = self.waiting.pop(request_id, None)
        if admission is not None:
            self._leave_tree(admission)
        return admission is not None

    def end(self, admission: Admission) -> None:
        """Take back what was promised to a request that has no sequences any more."""
        self._promised_pages -= admission.pages
        self._promised_places -= admission.width
        for group in admission.opening:
            group.leader = None
            self._offer(group)
        self._leave_tree(admission)
        if admission.base is not None:
            admission.base.users -= 1
            self._settle(admission.base)

    # -- choosing ----------------------------------------------------------------------------------

    def _next(self) -> Admission | None:
        if not self.waiting:
            return None
        oldest = next(iter(self.waiting.values()))
        if self._tree is None:
            return oldest
        for admission in self._new:
            admission.due_after = self.begun + len(self.waiting) + self._max_overtaken
        self._new.clear()
        assert oldest.group is not None
        if self.begun >= oldest.due_after and not any(g.leader for g in oldest.group.path):
            return oldest
        return self._tree.next()

    def _place(self, admission: Admission) -> tuple[Group | None, list[Group]]:
        """Return the pin to go on from, and the groups to compute the prefix of, shortest first."""
        opening: list[Group] = []
        for group in admission.group.path if admission.group is not None else ():
            if group.pin is not None:
                return group, opening[::-1]
            if group.waiting > 1:
                opening.append(group)
        return None, opening[::-1]

    # -- pages -------------------------------------------------------------------------------------

    def _need(self, admission: Admission, base: Group | None, opening: Sequence[Group]) -> int:
        """Return the most pages at any one time, those of the pins to come included."""
        length, depth = admission.prompt_tokens, _depth(base)
        pins = most = 0
        for group in opening:
            most = max(most, pins + self.cache.demand(length, self._chunk, (), depth))
            pins += self.cache.prefix_demand(group.depth, depth)
            depth = group.depth
        return max(most, pins + self.cache.demand(length, self._chunk, admission.branches, depth))

    def _fits(self, pages: int, places: int) -> bool:
        return (
            self._promised_pages + pages <= self.cache.pool.num_pages
            and self._promised_places + places <= self.max_sequences
        )

    def _begin(
        self, admission: Admission, base: Group | None, opening: list[Group], pages: int
    ) -> None:
        self._promised_pages += pages
        self._promised_places += admission.width
        admission.base, admission.opening, admission.pages = base, opening, pages
        if base is not None:
            base.users += 1
        del self.waiting[admission.request_id]
        admission.waits = False
        self.begun += 1
        prompt = admission.prompt
        prompt.cache = self.prefixes.hold(admission.digests[: self._reusable(admission)])
        admission.sequences.append(prompt)
        self.reusable_tokens += admission.reusable * self.cache.page_size
        self.reused_tokens += prompt.cache.length
        if self._tree is None:
            return
        self._tree.begin(admission)
        for group in opening:
            group.leader = admission
        while opening and prompt.cache.length >= opening[0].depth * self.cache.page_size:
            self._open(admission, opening.pop(0))

    def _reusable(self, admission: Admission) -> int:
        """Return the pages that a request takes over if they are there.

        Those of a group that it leads, and no more, if only a window's worth is missing there:
        the group needs that too.
        """
        for group in admission.opening:
            if self.prefixes.depth(group.digests[: group.depth]) < group.depth:
                return group.depth
        return admission.reusable

    # -- groups ------------------------------------------------------------------------------------

    def _open(self, leader: Admission, group: Group) -> None:
        """Pin the prefix that a leader has computed, if there is room, and let the others begin."""
        group.leader = None
        # With room for the pins to come, if possible.
        for opening in (leader.opening, ()):
            own = self._need(leader, group, opening)
            pages = self.cache.prefix_demand(group.depth, _depth(leader.base))
            more = pages + own - leader.pages
            if group.waiting and self._fits(more, 0):
                self._pin(leader, group, pages)
                self._promised_pages += more
                leader.pages = own
                break
        self._offer(group)

    def _pin(self, leader: Admission, group: Group, pages: int) -> None:
        """Pin a prefix, with its leader as the first user."""
        group.pin = self.prefixes.hold(group.digests[: group.depth])
        assert group.pin.length == group.depth * self.cache.page_size
        # The leader used its base; from now on the group does, and the leader the group.
        group.pages, group.base = pages, leader.base
        group.users, leader.base = 1, group
        self._pinned[group] = None

    def _unpin(self, group: Group) -> None:
        assert group.pin is not None
        self.cache.release(group.pin)
        self._promised_pages -= group.pages
        if group.base is not None:
            group.base.users -= 1
        group.pin = group.base = None
        group.pages = 0
        del self._pinned[group]

    def _unpin_all(self) -> None:
        for group in sorted(self._pinned, key=lambda group: -group.depth):
            assert not group.users
            self._unpin(group)
            self._offer(group)

    def _offer(self, group: Group) -> None:
        """Let a group begin that no longer waits for its prefix, or clear it away."""
        assert self._tree is not None
        if group.waiting:
            self._tree.offer(group, group.best_rank)
        else:
            self._settle(group)

    def _leave_tree(self, admission: Admission) -> None:
        group = admission.group
        if self._tree is not None and group is not None:
            self._tree.remove(admission)
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

    # -- tests -------------------------------------------------------------------------------------

    def check_integrity(self, running: Iterable[Admission]) -> None:
        """Assert that promises, places, pages and groups add up."""
        running = list(running)
        promised = sum(a.pages for a in running) + sum(g.pages for g in self._pinned)
        assert self._promised_pages == promised <= self.cache.pool.num_pages
        assert self._promised_places == sum(a.width for a in running) <= self.max_sequences
        pins = [group.pin for group in self._pinned if group.pin is not None]
        assert len(pins) == len(self._pinned)
        users: dict[Group, int] = dict.fromkeys(self._pinned, 0)
        bases = [*(a.base for a in running), *(g.base for g in self._pinned)]
        for base in filter(None, bases):
            users[base] += 1
        assert users == {group: group.users for group in self._pinned}
        for admission in running:
            assert 0 < len(admission.sequences) <= admission.width
            own = _pages(s.cache for s in admission.sequences) - _pinned_pages(admission.base)
            assert len(own) <= admission.pages, "a request holds more pages than it was promised"
        live = [s.cache for admission in running for s in admission.sequences]
        self.cache.check_integrity([*live, *pins])
        if self._tree is not None:
            self._tree.check_integrity([*self.waiting.values(), *running])


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
