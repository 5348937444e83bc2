"""Scheduling as a property: budgets, places and pages hold at every step, and everyone ends."""

import time

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


def drain(scheduler: Scheduler) -> tuple[int, int]:
    """Run to the end; returns tokens computed and steps."""
    computed = steps = 0
    while scheduler.has_work:
        computed += sum(chunk.count for chunk in step(scheduler))
        scheduler.check_integrity()
        steps += 1
    return computed, steps


def order_of_begin(scheduler: Scheduler) -> list[str]:
    """Run to the end; returns the requests in the order in which they began."""
    order: dict[str, None] = {}
    while scheduler.has_work:
        order.update(dict.fromkeys(c.sequence.request_id for c in step(scheduler)))
    return list(order)


class TestShard:
    """The order in which the requests of a known shard begin."""

    def test_longest_answer_first_then_longest_prompt(self) -> None:
        scheduler = Scheduler(HybridCache(100, PAGE, WINDOWS), 16, 1)
        for name, (prompt, write) in {"a": (5, 2), "b": (9, 7), "c": (3, 7), "d": (30, 2)}.items():
            admit(scheduler, name, unlike(prompt, name), [write])
        assert order_of_begin(scheduler) == ["b", "c", "d", "a"]

    def test_twenty_prefixes_larger_together_than_the_cache(self) -> None:
        """Each is computed once, though its rows arrive scattered."""
        prefixes = [unlike(40, seed) for seed in range(20)]
        rows = [(f"{p}/{n}", prefixes[p]) for n in range(50) for p in range(20)]
        pages = 150
        assert pages < 20 * 40 // PAGE

        def shard(policy: SchedulePolicy) -> tuple[int, int]:
            scheduler = Scheduler(HybridCache(pages, PAGE, WINDOWS), 64, 32, policy)
            for name, prefix in rows:
                assert admit(scheduler, name, [*prefix, *unlike(3, name)], [4])
            return drain(scheduler)

        computed, steps = shard("shard")
        # The token drawn last is not computed, and neither is any prefix token twice.
        assert computed == 20 * 40 + 1000 * (3 + 4)
        fcfs_computed, fcfs_steps = shard("fcfs")
        assert fcfs_computed > 2 * computed
        assert fcfs_steps > 1.3 * steps

    def test_groups_within_groups(self) -> None:
        """A system prompt that all share, and under it three that some share."""
        scheduler = Scheduler(HybridCache(60, PAGE, WINDOWS), 16, 4)
        system = unlike(24, "system")
        middles = [unlike(16, seed) for seed in range(3)]
        for n in range(8):
            for m, middle in enumerate(middles):
                admit(scheduler, f"{m}/{n}", [*system, *middle, *unlike(3, (m, n))], [2])
        computed, _ = drain(scheduler)
        assert computed == 24 + 3 * 16 + 24 * (3 + 2)

    def test_members_promise_what_they_add_to_the_prefix(self) -> None:
        """A prefix of 10 pages, and members of 1 and 1: far more of them run than whole ones."""
        scheduler = Scheduler(HybridCache(40, PAGE, WINDOWS), 200, 32)
        prefix = unlike(40, 0)
        for n in range(12):
            admit(scheduler, str(n), [*prefix, *unlike(2, n)], [2])
        step(scheduler)
        step(scheduler)
        # 10 + 2 pages are pinned, and each member adds one to both groups.
        assert len(scheduler.running) == 12
        assert 12 * scheduler.cache.demand(42, 200, [2]) > 3 * 40

    def test_a_pin_that_is_in_the_way_is_given_up(self) -> None:
        scheduler = Scheduler(HybridCache(24, PAGE, WINDOWS), 16, 8)
        prefix = unlike(24, 0)
        admit(scheduler, "short", [*prefix, 1], [9])
        admit(scheduler, "long", [*prefix, *unlike(40, 1)], [1])
        admit(scheduler, "other", unlike(60, 2), [1])
        assert drain(scheduler)[0] >= 24 + 1 + 40 + 60

    def test_a_request_is_overtaken_a_bounded_number_of_times(self) -> None:
        scheduler = Scheduler(HybridCache(200, PAGE, WINDOWS), 64, 2, max_overtaken=5)
        for name in ("first", "second"):
            admit(scheduler, name, unlike(4, name), [3])
        admit(scheduler, "short", unlike(4, "short"), [1])
        for number in range(100):
            admit(scheduler, str(number), unlike(20, number), [3])
            step(scheduler)
            if "short" in scheduler.running:
                break
        # Four waited when the first step came. Once nine had begun it was due, behind two.
        assert 4 + 5 < scheduler.admitter.begun <= 4 + 5 + 3

    def test_a_shard_that_is_known_is_not_bound_by_arrival(self) -> None:
        scheduler = Scheduler(HybridCache(200, PAGE, WINDOWS), 64, 1, max_overtaken=0)
        for n in range(20):
            admit(scheduler, str(n), unlike(4, n), [1 + n])
        assert order_of_begin(scheduler) == [str(n) for n in reversed(range(20))]

    def test_ten_thousand_wait(self) -> None:
        """Adding and beginning take time that hardly depends on how many wait."""
        seconds = {}
        for count in (1000, 10_000):
            scheduler = Scheduler(HybridCache(20_000, PAGE, WINDOWS), 64, 256)
            prompts = [[*unlike(40, n % 50), *unlike(4, n)] for n in range(count)]
            start = time.process_time()
            for n, prompt in enumerate(prompts):
                admit(scheduler, str(n), prompt, [1 + n % 7])
            for _ in range(200):
                step(scheduler)
            seconds[count] = time.process_time() - start
        print(f"\n{seconds}")
        assert seconds[10_000] < 20 * seconds[1000] + 0.5
