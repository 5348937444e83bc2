"""Random arrivals, lengths, aborts and prefixes: nothing leaks, nothing is forgotten, no page lies.

The machine plays the model: it writes into every slot what the engine would compute there, the
tokens up to that position, and before each step's queries attend it looks up what they would read.
With overlap, steps are settled when the next one has been launched.
"""

import itertools
import random

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model.engine.scheduler import Scheduler
from model.engine.sequence import UNKNOWN, Chunk
from model.engine.step import pack
from model.hybrid_cache import HybridCache
from model.params import SchedulePolicy
from tests.model.slots import slots_of

from .scheduling import PAGE, TOKEN, WINDOW, WINDOWS, Draw, admit, launch, settle

# Prompts are cut from these, so that many share a beginning, and part at many places.
STEMS = [random.Random(seed).choices(range(1, 9), k=60) for seed in range(3)]


def known(tokens: list[int]) -> tuple[int, ...]:
    """Put in what the device knows and the host does not."""
    return tuple(TOKEN if token == UNKNOWN else token for token in tokens)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        pages=st.integers(16, 70),
        budget=st.sampled_from([1, 3, 8, 30]),
        places=st.integers(1, 6),
        policy=st.sampled_from(["shard", "fcfs"]),
        max_overtaken=st.sampled_from([0, 2, 256]),
        max_idle=st.sampled_from([0, 5, None]),
        overlaps=st.booleans(),
    )
    def build(
        self,
        pages: int,
        budget: int,
        places: int,
        policy: SchedulePolicy,
        max_overtaken: int,
        max_idle: int | None,
        overlaps: bool,
    ) -> None:
        cache = HybridCache(pages, PAGE, WINDOWS, max_idle)
        self.scheduler = Scheduler(cache, budget, places, policy, max_overtaken)
        self.overlaps = overlaps
        self.flight: list[Draw] = []
        self.names = itertools.count()
        self.known: set[str] = set()
        self.content: dict[int, tuple[int, ...]] = {}

    @rule(
        stem=st.integers(0, 2),
        shared=st.integers(0, 45),
        own=st.lists(st.integers(1, 8), min_size=1, max_size=12),
        writes=st.lists(st.integers(1, 9), max_size=4),
        ends=st.none() | st.integers(1, 9),
        reuse=st.sampled_from([True, True, True, False]),
        copies=st.integers(1, 5),
    )
    def add(
        self,
        stem: int,
        shared: int,
        own: list[int],
        writes: list[int],
        ends: int | None,
        reuse: bool,
        copies: int,
    ) -> None:
        for copy in range(copies):
            name = f"r{next(self.names)}"
            prompt = [*STEMS[stem][:shared], *own, *[copy + 1] * copy]
            if admit(self.scheduler, name, prompt, writes, reuse=reuse, ends=ends):
                self.known.add(name)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        assert self.scheduler.drop(name)
        self.known.discard(name)

    @rule(waits=st.lists(st.sampled_from([False, False, True]), min_size=1, max_size=4))
    def steps(self, waits: list[bool]) -> None:
        for wait in waits:
            self.step(wait=wait)

    def step(self, *, wait: bool = False) -> None:
        chunks = self.scheduler.schedule()
        on_the_way = any(not chunk.sequence.ended for chunk, _ in self.flight)
        assert bool(chunks) or on_the_way or not self.known, "somebody waits, nobody is computed"
        assert sum(chunk.count for chunk in chunks) <= self.scheduler.max_batch_tokens
        if chunks:
            self.write(chunks)
        self.read(chunks)
        before, carry = self.flight, self.overlaps and not wait
        self.flight = launch(self.scheduler, chunks, carry=carry)
        settle(self.scheduler, before)
        if not carry:
            settle(self.scheduler, self.flight)
            self.flight = []
        self.known &= self.scheduler.running.keys() | self.scheduler.admitter.waiting.keys()
        self.check()

    def write(self, chunks: list[Chunk]) -> None:
        """Put what the model would compute where the batch says."""
        batch = pack(chunks, self.scheduler.cache, [])
        carried = dict(batch.carried)
        assert carried.keys() == set(np.flatnonzero(batch.token_ids == UNKNOWN).tolist())
        for row, place in carried.items():
            before, _ = self.flight[place]
            now = chunks[int(np.searchsorted(np.cumsum(batch.query_lens), row, side="right"))]
            assert (now.sequence, now.start) == (before.sequence, before.end), "another's token"
        for source, target in batch.copies:
            for offset in range(PAGE):
                copied = self.content.get(source * PAGE + offset, ())
                self.content[target * PAGE + offset] = copied
        written: set[int] = set()
        for layout in batch.groups.values():
            slots = layout.slots.tolist()
            assert len(slots) == len(set(slots)), "two tokens go to one slot"
            assert written.isdisjoint(slots), "a page is in two groups"
            written.update(slots)
            row = 0
            for chunk in chunks:
                for position in range(chunk.start, chunk.start + chunk.count):
                    self.content[slots[row]] = known(chunk.sequence.tokens[: position + 1])
                    row += 1

    def read(self, chunks: list[Chunk]) -> None:
        """Look up every key that the queries see."""
        for chunk in chunks:
            tokens = chunk.sequence.tokens
            for kind, window in WINDOWS.items():
                first = 0 if window is None else max(0, chunk.start - WINDOW + 1)
                slots = slots_of(self.scheduler.cache, chunk.sequence.cache, kind, first)
                for position, slot in enumerate(slots, first):
                    assert self.content[slot] == known(tokens[: position + 1]), "a wrong page"

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check_integrity()
        assert self.known == self.scheduler.running.keys() | self.scheduler.admitter.waiting.keys()

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        left = 20_000
        while self.scheduler.has_work:
            self.step()
            left -= 1
            assert left, "it does not end"
        pool = self.scheduler.cache.pool
        assert pool.num_free == pool.num_pages, "something is held for nobody"
        assert not self.scheduler.admitter._tree.root.children


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
