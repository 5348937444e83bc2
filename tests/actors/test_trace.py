import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.trace import histogram


@pytest.mark.parametrize(
    ("milliseconds", "counts"),
    [
        ([], ()),
        ([0, 0.5, 1, 1.9], (4,)),
        ([2, 3.9, 4], (0, 2, 1)),
        ([1023, 1024], (0,) * 9 + (1, 1)),
    ],
)
def test_latencies_are_counted_by_powers_of_two(
    milliseconds: list[float], counts: tuple[int, ...]
) -> None:
    assert histogram(value / 1000 for value in milliseconds) == counts


@given(st.lists(st.integers(0, 10**7)))
def test_every_row_is_in_the_bucket_of_its_latency(milliseconds: list[int]) -> None:
    counts = histogram((value + 0.5) / 1000 for value in milliseconds)
    for place, count in enumerate(counts):
        low, high = (2**place if place else 0), 2 ** (place + 1)
        assert count == sum(low <= value < high for value in milliseconds)
    assert sum(counts) == len(milliseconds)
