"""The page bookkeeping against a model that remembers, for each position, what was stored there."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from model.batch import LayerKind
from model.hybrid_cache import HybridCache, SequenceCache

from .slots import slots_of

PAGE = 4
WINDOW = 6
WINDOWS: dict[LayerKind, int | None] = {"full_attention": None, "sliding_attention": WINDOW}


class PagesMachine(RuleBasedStateMachine):
    """Extends, trims, forks and releases sequences; every visible position keeps its content."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.cache = HybridCache(400, PAGE, WINDOWS)
        self.content: dict[int, object] = {}
        self.expected: dict[int, list[object]] = {}
        self.live: dict[int, SequenceCache] = {}
        self.keys = itertools.count()

    @rule(target=sequences)
    def new(self) -> int:
        return self.remember(self.cache.new_sequence(), [])

    @rule(key=sequences, count=st.integers(1, 9))
    def extend(self, key: int, count: int) -> None:
        sequence = self.live[key]
        start = sequence.length
        if start + count > 60:
            return
        for source, target in self.cache.extend(sequence, count):
            for offset in range(PAGE):
                self.content[target * PAGE + offset] = self.content.get(source * PAGE + offset)
        stored = [object() for _ in range(count)]
        for kind in WINDOWS:
            slots = slots_of(self.cache, sequence, kind, start)
            for slot, thing in zip(slots, stored, strict=True):
                self.content[slot] = thing
        self.expected[key] += stored
        self.check_visible(key, first_query=start)
        self.cache.trim(sequence)

    @precondition(lambda self: len(self.live) < 8)
    @rule(target=sequences, key=sequences)
    def fork(self, key: int) -> int:
        return self.remember(self.cache.fork(self.live[key]), list(self.expected[key]))

    @rule(key=consumes(sequences))
    def release(self, key: int) -> None:
        self.cache.release(self.live.pop(key))

    def remember(self, sequence: SequenceCache, expected: list[object]) -> int:
        key = next(self.keys)
        self.live[key], self.expected[key] = sequence, expected
        return key

    def check_visible(self, key: int, first_query: int) -> None:
        sequence, expected = self.live[key], self.expected[key]
        for kind, window in WINDOWS.items():
            first = 0 if window is None else max(0, first_query - window + 1)
            slots = slots_of(self.cache, sequence, kind, first)
            assert [self.content[slot] for slot in slots] == expected[first:]

    @invariant()
    def nothing_leaks_and_nothing_is_lost(self) -> None:
        self.cache.check_integrity(self.live.values())
        for key, sequence in self.live.items():
            self.check_visible(key, first_query=sequence.length)
            held = len(sequence.tables["sliding_attention"].pages)
            assert held <= -(-(WINDOW - 1) // PAGE) + 1, "more than a window can touch"


TestPages = PagesMachine.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("branches", [[], [1], [30], [7, 7, 7], [1, 0, 25]])
@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("prompt", [1, 3, 4, 5, 6, 7, 21, 48])
def test_demand_is_never_exceeded(prompt: int, chunk: int, branches: list[int]) -> None:
    cache = HybridCache(500, PAGE, WINDOWS)
    demand = cache.demand(prompt, chunk, branches)
    live = [cache.new_sequence()]

    def grow(sequence: SequenceCache, count: int) -> None:
        while count > 0:
            cache.extend(sequence, min(chunk, count))
            assert cache.pool.num_pages - cache.pool.num_free <= demand
            cache.trim(sequence)
            count -= chunk

    grow(live[0], prompt)
    live += [cache.fork(live[0]) for _ in branches[1:]]
    for sequence, length in zip(live, branches, strict=False):
        grow(sequence, length)
    for sequence in live:
        cache.release(sequence)
    assert cache.pool.num_free == cache.pool.num_pages


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("length", [1, 4, 5, 6, 7, 8, 9, 21, 48])
def test_what_is_held_between_steps(length: int, chunk: int) -> None:
    cache = HybridCache(500, PAGE, WINDOWS)
    sequence = cache.new_sequence()
    while sequence.length < length:
        cache.extend(sequence, min(chunk, length - sequence.length))
        cache.trim(sequence)
    assert cache.pool.num_pages - cache.pool.num_free == cache.held(length)
    assert cache.held(length, windows=False) == 2 * -(-length // PAGE)


def test_a_model_without_sliding_layers_keeps_everything() -> None:
    cache = HybridCache(10, PAGE, {"full_attention": None})
    sequence = cache.new_sequence()
    cache.extend(sequence, 40)
    cache.trim(sequence)
    assert len(sequence.tables["full_attention"].pages) == 10
    assert cache.demand(40, 16, []) == 10
