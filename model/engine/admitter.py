"""Who begins next, and with what of its prompt computed already.

A request begins only when all pages that it can ever need are free or idle: lengths are known
beforehand, so nothing is preempted.
"""

from collections import OrderedDict
from collections.abc import Iterable

from model.hybrid_cache import HybridCache
from model.params import SchedulePolicy
from model.prefix_cache import PrefixCache

from .admission import Admission
from .pins import Pins
from .prefix_tree import PrefixTree

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
        self._max_overtaken = max_overtaken
        self._grouped = policy == "shard"
        self._tree = PrefixTree(cache.page_size)
        self._pins = Pins(cache, self.prefixes, self._tree, chunk)
        self._arrivals = 0
        self._new: list[Admission] = []
        self._places = 0

    def add(self, admission: Admission) -> None:
        """Queue a request that an empty engine has room for."""
        admission.arrival = self._arrivals
        self._arrivals += 1
        self.waiting[admission.request_id] = admission
        if self._grouped:
            self._tree.add(admission)
            self._new.append(admission)

    def begin_next(self) -> Admission | None:
        """Promise pages and places to the next request and give it what is computed of its prompt.

        Returns:
            None if nobody waits, there is no room, or a prefix has to be computed first.
        """
        admission = self._next()
        if admission is None or self._places + admission.width > self.max_sequences:
            return None
        base, opening = self._pins.place(admission)
        pages = self._pins.need(admission, base, opening)
        if not self._pins.has_room(pages):
            if self._places:
                return None
            # Nothing runs, so nothing will be freed: pins are in the way.
            self._pins.clear()
            base, opening = None, []
            pages = self._pins.need(admission, base, opening)
            assert self._pins.has_room(pages), "a request larger than the cache"
        self._pins.promise(admission, base, opening, pages)
        self._begin(admission)
        return admission

    def computed(self, admission: Admission, start: int) -> None:
        """Take note that the prompt was computed from token `start` on, before it is trimmed."""
        cache, size = admission.prompt.cache, self.cache.page_size
        end = min(cache.length // size, len(admission.digests))
        self.prefixes.name(cache, admission.digests, start // size, end)
        self._pins.reached(admission)

    def drop(self, request_id: str) -> bool:
        """Forget a request that waits; False if there is none."""
        admission = self.waiting.pop(request_id, None)
        if admission is not None:
            self._pins.leave(admission)
        return admission is not None

    def end(self, admission: Admission) -> None:
        """Take back what was promised to a request that has no sequences any more."""
        self._places -= admission.width
        self._pins.end(admission)

    def check_integrity(self, running: Iterable[Admission]) -> None:
        """Assert that promises, places, pages and groups add up."""
        running = list(running)
        assert self._places == sum(a.width for a in running) <= self.max_sequences
        assert all(0 < len(a.sequences) <= a.width for a in running)
        self._pins.check_integrity(running)
        if self._grouped:
            self._tree.check_integrity([*self.waiting.values(), *running])

    def _next(self) -> Admission | None:
        if not self.waiting:
            return None
        oldest = next(iter(self.waiting.values()))
        if not self._grouped:
            return oldest
        for admission in self._new:
            admission.due_after = self.begun + len(self.waiting) + self._max_overtaken
        self._new.clear()
        assert oldest.group is not None
        if self.begun >= oldest.due_after and not any(g.leader for g in oldest.group.path):
            return oldest
        return self._tree.next()

    def _begin(self, admission: Admission) -> None:
        del self.waiting[admission.request_id]
        admission.waits = False
        self.begun += 1
        self._places += admission.width
        prompt = admission.prompt
        prompt.cache = self.prefixes.hold(admission.digests[: self._reusable(admission)])
        admission.sequences.append(prompt)
        self.reusable_tokens += admission.reusable * self.cache.page_size
        self.reused_tokens += prompt.cache.length
        if self._grouped:
            self._tree.begin(admission)
            self._pins.reached(admission)

    def _reusable(self, admission: Admission) -> int:
        """Return the pages that a request takes over if they are there.

        Those of a group that it leads, and no more, if only a window's worth is missing there:
        the group needs that too.
        """
        for group in admission.opening:
            if self.prefixes.depth(group.digests[: group.depth]) < group.depth:
                return group.depth
        return admission.reusable
