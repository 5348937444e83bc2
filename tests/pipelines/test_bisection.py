from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from pipelines.bisection import bisect


@given(st.data())
def test_exactly_the_rows_that_end_processes_are_given_up(data: st.DataObject) -> None:
    first, count = data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 300))
    last = first + count
    poison = data.draw(st.sets(st.integers(first, last - 1), max_size=12))
    tried: list[tuple[int, int]] = []

    def attempt(low: int, high: int) -> list[int] | None:
        assert low < high
        tried.append((low, high))
        return None if poison & set(range(low, high)) else list(range(low, high))

    pieces = list(bisect(first, last, attempt))
    assert [(p.first, p.last) for p in pieces] == sorted((p.first, p.last) for p in pieces)
    assert [row for p in pieces for row in range(p.first, p.last)] == list(range(first, last))
    assert {p.first for p in pieces if p.answers is None} == poison
    assert all(p.last - p.first == 1 for p in pieces if p.answers is None)
    assert all(p.answers in (None, list(range(p.first, p.last))) for p in pieces)
    assert len(tried) == len(set(tried)) <= 1 + 2 * len(poison) * ceil(log2(count))
