"""What a person sees while a job runs: a live bar on a terminal, elsewhere a line now and then."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from pipelines.report import Progress

from .wording import counted, duration

SECONDS_BETWEEN_LINES = 5.0
RATE_WINDOW_S = 30.0

OnProgress = Callable[[Progress], None]


class Meter:
    """Rates over the last half minute: what is true now, whatever the start-up took."""

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[Progress] = deque()

    def add(self, progress: Progress) -> None:
        """Take a sample; those older than the window, and a beginning without work, are dropped."""
        samples = self._samples
        samples.append(progress)
        while len(samples) > 1 and (
            progress.elapsed_s - samples[0].elapsed_s > self._window_s
            or samples[0].prompt_tokens == samples[1].prompt_tokens == 0
        ):
            samples.popleft()

    def per_second(self, field: str) -> float:
        """Give the growth of a counter per second, 0 while there is nothing to compare."""
        first, last = self._samples[0], self._samples[-1]
        seconds = last.elapsed_s - first.elapsed_s
        grown = getattr(last, field) - getattr(first, field)
        return float(grown / seconds) if seconds > 0 else 0.0


def describe(progress: Progress, meter: Meter) -> str:
    """Say in one line how far the job is and how fast it goes."""
    parts = [f"{progress.rows_done:,}/{progress.rows_total:,} rows"]
    parts.append(
        f"{meter.per_second('prompt_tokens'):,.0f} tokens/s in, "
        f"{meter.per_second('completion_tokens'):,.0f} out"
    )
    rows_per_second = meter.per_second("rows_done")
    remaining = progress.rows_total - progress.rows_done
    if rows_per_second > 0 and remaining > 0:
        parts.append(f"ETA {duration(remaining / rows_per_second)}")
    parts.append(counted(progress.replicas, "replica"))
    if progress.rows_failed:
        parts.append(counted(progress.rows_failed, "error"))
    return " | ".join(parts)


@contextmanager
def watching(console: Console) -> Iterator[OnProgress]:
    """Show progress until the block ends; yields the function to call with each news."""
    if console.quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _bar(console) as show:
            yield show
    else:
        yield _lines(console)


@contextmanager
def _bar(console: Console) -> Iterator[OnProgress]:
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    meter = Meter()
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting the replicas", total=None)

        def show(progress: Progress) -> None:
            meter.add(progress)
            bar.update(
                task,
                total=progress.rows_total,
                completed=progress.rows_done,
                description=describe(progress, meter),
            )

        yield show


def _lines(console: Console) -> OnProgress:
    meter = Meter()
    due = 0.0

    def show(progress: Progress) -> None:
        nonlocal due
        meter.add(progress)
        now = time.monotonic()
        if now >= due:
            due = now + SECONDS_BETWEEN_LINES
            console.print(describe(progress, meter), highlight=False, soft_wrap=True)

    return show
