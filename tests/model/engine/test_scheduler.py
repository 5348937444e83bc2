"""Scheduling as a property: budgets, places and pages hold at every step, and everyone ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from model.engine.scheduler import Scheduler
from model.hybrid_cache import HybridCache
from model.params import SchedulePolicy

from .scheduling import PAGE, WINDOWS, admit, step, unlike

requests = st.tuples(st.integers(1, 40), st.lists(st.integers(1, 12), max_size=4))


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from(["shard", "fcfs"]),
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
    policy: SchedulePolicy,
) -> None:
    scheduler = Scheduler(HybridCache(pages, PAGE, WINDOWS), budget, places, policy)
    expected = 0
    computed = 0
    steps = 0
    for index, (pause, (prompt, writes)) in enumerate(arrivals):
        if admit(scheduler, str(index), unlike(prompt, index), writes):
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
    admit(scheduler, "short", unlike(2, 1), [9])
    step(scheduler)
    admit(scheduler, "long", unlike(30, 2), [1])
    chunks = scheduler.schedule()
    assert [(chunk.sequence.request_id, chunk.count) for chunk in chunks] == [
        ("short", 1),
        ("long", 7),
    ]


def test_dropping_the_unknown_and_the_waiting() -> None:
    scheduler = Scheduler(HybridCache(20, 4, WINDOWS), 8, 1)
    admit(scheduler, "first", unlike(4, 1), [4])
    admit(scheduler, "second", unlike(4, 2), [4])
    step(scheduler)
    assert scheduler.drop("second")
    assert not scheduler.drop("second")
    assert scheduler.drop("first")
    assert not scheduler.has_work
    scheduler.check_integrity()
