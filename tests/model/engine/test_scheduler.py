"""Scheduling as a property: budgets, places and pages hold at every step, and everyone ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import LayerKind
from model.engine.scheduler import Scheduler
from model.engine.sequence import Admission, Chunk, Continuation, Sequence
from model.engine.step import StepPlan
from model.hybrid_cache import HybridCache

WINDOWS: dict[LayerKind, int | None] = {"full_attention": None, "sliding_attention": 6}


class Writer:
    """Appends a token per step until it has written enough; stands in for a completion."""

    def __init__(self, left: int) -> None:
        self.left = left

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None: ...

    def continuations(self) -> list[Continuation]:
        self.left -= 1
        return [(self, [1])] if self.left > 0 else []


class Prompt:
    """Branches into writers."""

    def __init__(self, writes: list[int]) -> None:
        self.writes = writes

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None: ...

    def continuations(self) -> list[Continuation]:
        return [(Writer(count), [1]) for count in self.writes]


def admit(scheduler: Scheduler, name: str, prompt: int, writes: list[int]) -> Admission | None:
    cache = scheduler.cache
    pages = cache.demand(prompt, scheduler.max_batch_tokens, writes)
    width = max(1, len(writes))
    if pages > cache.pool.num_pages or width > scheduler.max_sequences:
        return None
    sequence = Sequence(name, [1] * prompt, cache.new_sequence(), Prompt(writes))
    admission = Admission(name, sequence, pages, width)
    scheduler.add(admission)
    return admission


def step(scheduler: Scheduler) -> list[Chunk]:
    chunks = scheduler.schedule()
    for chunk in chunks:
        scheduler.cache.extend(chunk.sequence.cache, chunk.count)
    for chunk in chunks:
        scheduler.cache.trim(chunk.sequence.cache)
        if chunk.last:
            scheduler.advance(chunk.sequence)
    return chunks


requests = st.tuples(st.integers(1, 40), st.lists(st.integers(1, 12), max_size=4))


@settings(max_examples=150, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 6), requests), max_size=12),
    budget=st.integers(1, 24),
    places=st.integers(1, 8),
    pages=st.integers(20, 80),
    dropped=st.sets(st.integers(0, 11), max_size=3),
)
def test_everyone_ends_within_the_limits(
    arrivals: list[tuple[int, tuple[int, list[int]]]],
    budget: int,
    places: int,
    pages: int,
    dropped: set[int],
) -> None:
    scheduler = Scheduler(HybridCache(pages, 4, WINDOWS), budget, places)
    expected = 0
    computed = 0
    steps = 0
    for index, (pause, (prompt, writes)) in enumerate(arrivals):
        if admit(scheduler, str(index), prompt, writes):
            expected += prompt + sum(writes)
        for _ in range(pause):
            computed += sum(chunk.count for chunk in step(scheduler))
        if index in dropped:
            scheduler.drop(str(index))
    while scheduler.has_work:
        chunks = step(scheduler)
        assert 0 < sum(chunk.count for chunk in chunks) <= budget
        assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks)
        scheduler.check_integrity()
        computed += sum(chunk.count for chunk in chunks)
        steps += 1
        assert steps < 5000
    assert scheduler.cache.pool.num_free == pages
    if not dropped:
        assert computed == expected, "a token was computed twice, or not at all"


def test_decodes_come_before_prompts() -> None:
    scheduler = Scheduler(HybridCache(100, 4, WINDOWS), 8, 8)
    admit(scheduler, "short", 2, [9])
    step(scheduler)
    admit(scheduler, "long", 30, [1])
    chunks = scheduler.schedule()
    assert [(chunk.sequence.request_id, chunk.count) for chunk in chunks] == [
        ("short", 1),
        ("long", 7),
    ]


def test_dropping_the_unknown_and_the_waiting() -> None:
    scheduler = Scheduler(HybridCache(20, 4, WINDOWS), 8, 1)
    admit(scheduler, "first", 4, [4])
    admit(scheduler, "second", 4, [4])
    step(scheduler)
    assert scheduler.drop("second")
    assert not scheduler.drop("second")
    assert scheduler.drop("first")
    assert not scheduler.has_work
    scheduler.check_integrity()
