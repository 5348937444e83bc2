"""Charts as plain geometry: where each bar, point and label goes. The template draws them as SVG.

All places are in the units of a chart's own box, WIDTH by HEIGHT with the origin at the top left.
Each chart brings its numbers along as a table, for those who can't see it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from pipelines.lengths import round_up

from .wording import compact

WIDTH, HEIGHT = 420.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 12.0, 24.0
GAP = 0.15  # of a bar's place
Y_TICKS = 4
X_TICKS = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through all points of a series, as an SVG path, and which of the series it is."""

    path: str
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis and where it stands."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        title: what it shows.
        description: its axes and its greatest value, in a sentence.
        bars: of a histogram.
        curves: of a time series.
        x_ticks: below.
        y_ticks: on the left.
        header: of the table of its numbers.
        rows: of that table.
    """

    title: str
    description: str
    bars: tuple[Bar, ...]
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM


def histogram(
    title: str, labels: Sequence[str], counts: Sequence[int], *, header: tuple[str, str]
) -> Chart:
    """Draw counts side by side.

    Args:
        title: of the chart.
        labels: of each bar.
        counts: of each bar; at least one.
        header: what labels and counts are.
    """
    top = _top(counts)
    place = (WIDTH - LEFT - RIGHT) / len(counts)
    bars = [
        Bar(
            x=_rounded(LEFT + (index + GAP / 2) * place),
            y=_y(count, top),
            width=_rounded((1 - GAP) * place),
            height=_rounded(HEIGHT - BOTTOM - _y(count, top)),
            title=f"{label}: {count:,}",
        )
        for index, (label, count) in enumerate(zip(labels, counts, strict=True))
    ]
    every = ceil(len(labels) / X_TICKS)
    ticks = [
        Tick(_rounded(LEFT + (index + 0.5) * place), labels[index])
        for index in range(0, len(labels), every)
    ]
    peak = max(range(len(counts)), key=counts.__getitem__)
    return Chart(
        title=title,
        description=f"{header[1]} by {header[0]}; most, {counts[peak]:,}, at {labels[peak]}.",
        bars=tuple(bars),
        curves=(),
        x_ticks=tuple(ticks),
        y_ticks=tuple(_y_ticks(top)),
        header=header,
        rows=tuple((label, f"{count:,}") for label, count in zip(labels, counts, strict=True)),
    )


def time_series(
    title: str, times: Sequence[str], series: Mapping[str, Sequence[float]], *, unit: str
) -> Chart:
    """Draw values over time.

    Args:
        title: of the chart.
        times: of each value.
        series: values by their name; at least one of each.
        unit: of the values.
    """
    top = _top([value for values in series.values() for value in values])
    step = (WIDTH - LEFT - RIGHT) / len(times)
    xs = [_rounded(LEFT + (index + 0.5) * step) for index in range(len(times))]
    curves = [
        Curve(_path(xs, [_y(value, top) for value in values]), name, number)
        for number, (name, values) in enumerate(series.items())
    ]
    every = ceil(len(times) / X_TICKS)
    peak = max(value for values in series.values() for value in values)
    return Chart(
        title=title,
        description=f"{unit} over time: {', '.join(series)}; at most {compact(peak)}.",
        bars=(),
        curves=tuple(curves),
        x_ticks=tuple(Tick(xs[i], times[i]) for i in range(0, len(times), every)),
        y_ticks=tuple(_y_ticks(top)),
        header=("time", *series),
        rows=tuple(
            (time, *(f"{values[index]:,.1f}" for values in series.values()))
            for index, time in enumerate(times)
        ),
    )


def _top(values: Sequence[float]) -> float:
    """Choose where the axis ends: a round number, not below any value."""
    most = max(values)
    if most <= 0:
        return 1.0
    if most < Y_TICKS:  # what is a share or a small rate gets an axis that fits it
        return float(most)
    step = round_up(most / Y_TICKS)
    return float(step * ceil(most / step))


def _y_ticks(top: float) -> Iterator[Tick]:
    count = Y_TICKS if top < Y_TICKS else round(top / round_up(top / Y_TICKS))
    for index in range(count + 1):
        value = top * index / count
        yield Tick(_y(value, top), compact(value))


def _y(value: float, top: float) -> float:
    return _rounded(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top))


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + " L".join(f"{x:g},{y:g}" for x, y in zip(xs, ys, strict=True))


def _rounded(value: float) -> float:
    """Write no more digits than can be seen."""
    return round(value, 1)
