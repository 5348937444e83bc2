import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cluster.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, histogram, time_series
from cluster.wording import compact, share

FLOOR = HEIGHT - BOTTOM
counts = st.lists(st.integers(0, 10**9), min_size=1, max_size=40)
rates = st.floats(0, 1e7, allow_subnormal=False)


def check_axes(chart: Chart, most: float) -> None:
    places = [tick.at for tick in chart.y_ticks]
    assert places == sorted(places, reverse=True)
    assert (places[0], places[-1]) == (FLOOR, TOP)
    assert chart.y_ticks[0].text == "0"
    assert all(LEFT <= tick.at <= WIDTH - RIGHT for tick in chart.x_ticks)
    assert 1 <= len(chart.x_ticks) <= 6
    assert 2 <= len(chart.y_ticks) <= 5
    assert chart.description.endswith(".")
    assert most >= 0


@given(counts)
def test_bars_stand_side_by_side_and_are_as_high_as_their_counts(values: list[int]) -> None:
    labels = [str(i) for i in range(len(values))]
    chart = histogram("rows", labels, values, header=("tokens", "rows"))
    check_axes(chart, max(values))
    assert len(chart.bars) == len(values)
    edges = [(bar.x, round(bar.x + bar.width, 1)) for bar in chart.bars]
    assert all(end <= start + 0.2 for (_, end), (start, _) in pairwise(edges))
    assert edges[0][0] >= LEFT
    assert edges[-1][1] <= WIDTH - RIGHT + 0.1
    for bar in chart.bars:
        assert TOP <= bar.y <= FLOOR
        assert abs(bar.y + bar.height - FLOOR) < 0.11
    tallest = max(chart.bars, key=lambda bar: bar.height)
    if max(values):
        # The greatest fills at least two fifths of the height, or its axis would be a waste.
        assert tallest.height >= 0.39 * (FLOOR - TOP)
        for bar, value in zip(chart.bars, values, strict=True):
            assert abs(bar.height / tallest.height - value / max(values)) < 0.01
    assert chart.rows == tuple((str(i), f"{value:,}") for i, value in enumerate(values))


@given(st.lists(st.tuples(rates, rates), min_size=1, max_size=80))
def test_curves_go_through_all_values(values: list[tuple[float, float]]) -> None:
    series = {"in": [a for a, _ in values], "out": [b for _, b in values]}
    times = [f"{i} s" for i in range(len(values))]
    chart = time_series("speed", times, series, unit="tokens")
    check_axes(chart, max(max(pair) for pair in values))
    assert [curve.name for curve in chart.curves] == ["in", "out"]
    for curve in chart.curves:
        points = re.findall(r"[ML]([\d.]+),([\d.]+)", curve.path)
        assert len(points) == len(values)
        assert all(TOP <= float(y) <= FLOOR for _, y in points)
    assert [len(row) for row in chart.rows] == [3] * len(values)


def test_numbers_are_written_short() -> None:
    numbers = {0: "0", 950: "950", 999.9: "1k", 12_345: "12.3k", 4_000_000: "4M", 2e15: "2e+03T"}
    assert {number: compact(number) for number in numbers} == numbers
    assert [share(*pair) for pair in ((0, 5), (1, 250), (1, 8), (5, 5), (0, 0))] == [
        "0 %", "0.4 %", "12 %", "100 %", "0 %",
    ]  # fmt: skip
