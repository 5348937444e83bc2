"""Which sequences share keys."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.attention.shared import MOST_QUERIES, SharedKeys, shared_keys
from model.batch import GroupLayout, PackedBatch

PAGE = 4

# A page's id is its path from the root, so that equal ids mean equal prefixes, as in the cache.
paths = st.lists(st.integers(0, 1), min_size=1, max_size=5)
sequences = st.lists(
    st.tuples(paths, st.integers(0, 4), st.integers(1, MOST_QUERIES + 1)), min_size=1, max_size=6
)


def find(
    drawn: list[tuple[list[int], int, int]], least_queries: int = 2, least_saved: int = 1
) -> tuple[SharedKeys, list[dict[int, int]]]:
    """Return what is found, and each sequence's pages by their number from position 0."""
    names: dict[tuple[int, ...], int] = {}
    pages = []
    for path, dropped, _ in drawn:
        kept = range(min(dropped, len(path) - 1), len(path))
        pages.append({n: names.setdefault(tuple(path[: n + 1]), len(names)) for n in kept})
    tables = tuple(np.array(list(table.values())) for table in pages)
    nothing = np.zeros(0, dtype=np.int64)
    layout = GroupLayout(nothing, tables, np.array([min(table) for table in pages]) * PAGE)
    counts = np.array([count for _, _, count in drawn])
    lengths = np.array([(max(table) + 1) * PAGE for table in pages])
    batch = PackedBatch(nothing, nothing, counts, lengths, {"full_attention": layout})
    found = shared_keys(batch, layout, PAGE, least_queries=least_queries, least_saved=least_saved)
    return found, pages


def groups(found: SharedKeys) -> Iterator[tuple[list[tuple[int, int]], range]]:
    for index, (begin, end) in enumerate(found.keys.tolist()):
        members = found.queries[found.starts[index] : found.starts[index + 1]]
        yield [tuple(member) for member in members.tolist()], range(begin // PAGE, end // PAGE)


@given(sequences)
def test_members_have_the_shared_pages_and_all_their_queries(
    drawn: list[tuple[list[int], int, int]],
) -> None:
    found, pages = find(drawn)
    seen: set[int] = set()
    for members, shared in groups(found):
        here = {sequence for sequence, _ in members}
        assert len(here) > 1
        assert not here & seen
        seen |= here
        assert members == [(s, q) for s in sorted(here) for q in range(drawn[s][2])]
        assert shared
        for number in shared:
            assert len({pages[sequence][number] for sequence in here}) == 1
    assert all(drawn[sequence][2] <= MOST_QUERIES for sequence in seen)


@given(st.lists(paths, min_size=1, max_size=8))
def test_more_is_saved_than_by_the_page_that_all_share(drawn: list[list[int]]) -> None:
    found, pages = find([(path, 0, 1) for path in drawn])
    got = sum((len(members) - 1) * len(shared) for members, shared in groups(found))
    families = [[p for p in pages if p[0] == first] for first in {p[0] for p in pages}]
    assert got >= sum(
        (len(family) - 1) * len(set.intersection(*[set(p.items()) for p in family]))
        for family in families
    )


A, B, C = [0, 0, 0, 0], [0, 1, 1, 1], [0]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ([A, A, A], {(0, 1, 2): 4}),
        ([A, A, A, B, B, B], {(0, 1, 2): 4, (3, 4, 5): 4}),
        ([A, A, A, B, C], {(0, 1, 2): 4, (3, 4): 1}),
        ([A, A, A, B], {(0, 1, 2): 4}),
        ([C, C, A, A], {(0, 1): 1, (2, 3): 4}),
        ([A, [0, 0, 0, 1], [0, 0, 0, 2], [1]], {(0, 1, 2): 3}),
    ],
)
def test_those_that_share_more_are_apart(
    drawn: list[list[int]], expected: dict[tuple[int, ...], int]
) -> None:
    found, _ = find([(path, 0, 1) for path in drawn])
    assert {tuple(s for s, _ in members): len(keys) for members, keys in groups(found)} == expected


def test_small_groups_are_left_alone() -> None:
    drawn = [([0, 0, 0, n], 0, 1) for n in range(3)]  # two times three pages are saved
    for queries, keys, expected in [(3, 6 * PAGE, 1), (4, 0, 0), (0, 6 * PAGE + 1, 0)]:
        found, _ = find(drawn, queries, keys)
        assert len(found.keys) == expected
        assert found.starts[-1] == len(found.queries) == 3 * expected
