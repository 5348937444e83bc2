"""`gemmaray report`: an output as one HTML page that works without a network.

The template escapes every value, and the page's own policy lets nothing be loaded or run.
"""

import json
import posixpath
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import JobError, StorageError
from pipelines.jobfile import load_job
from pipelines.lengths import Lengths
from pipelines.output import Output, open_output
from pipelines.s3 import ENVIRONMENT, S3Settings
from pipelines.schema import SOURCE_FIELDS
from pipelines.statistics import SCORE_BINS, ErrorExample, Statistics, gather, sample_rows
from pipelines.timeline import Moment, Throughput, moments, throughput

from .charts import Chart, histogram, time_series
from .templating import page_template
from .wording import compact, counted, duration, share

MOMENTS = 60
SAMPLE_ROWS = 12
MOST_VALUES = 30  # of a table of labels; the rest is summed up
FOLDED = 240  # characters from which a text is folded
LONGEST_TEXT = 20_000  # characters; more of a single value is cut off
# Columns of a sample row that come first and last; the others stand between them.
FIRST = tuple(field.name for field in SOURCE_FIELDS)
LAST = ("error_class", "error")


@dataclass(frozen=True, slots=True)
class Share:
    """A line of a table with bars."""

    name: str
    count: int
    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a sample row: how it starts, and all of it where that is more."""

    name: str
    start: str
    whole: str | None


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """Rows that failed for one class of reason."""

    name: str
    count: int
    text: str
    examples: Sequence[ErrorExample]


def write_report(url: str, target: Path | None, s3: S3Settings = ENVIRONMENT) -> Path:
    """Write a report of an output, and give its path.

    Args:
        url: the output folder.
        target: the file to write; None names it after the output, in the current folder.
        s3: how S3 is reached.

    Raises:
        GemmarayError: there is no job, it can't be reached, or the file can't be written.
    """
    output = open_output(url, s3)
    page = render(output, gather(output), sample_rows(output, SAMPLE_ROWS))
    name = posixpath.basename(url.rstrip("/")) or "gemmaray"
    path = target or Path(f"{name}-report.html")
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error}") from error
    return path


def render(output: Output, found: Statistics, rows: Sequence[Mapping[str, Any]]) -> str:
    """Put the page together."""
    reached = throughput(found.receipts)
    stretches = moments(found.receipts, MOMENTS)
    return page_template("report.html.j2").render(
        output=output.url,
        plan=output.plan.id,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        state=_state(output),
        tiles=list(_tiles(output, found, reached)),
        charts=list(_charts(found, stretches)),
        tables=list(_tables(found)),
        errors=list(_errors(found)),
        damaged=found.damaged,
        strays=output.strays,
        settings=_settings(output),
        inputs=[(file.name, f"{file.rows:,}") for file in output.plan.files[:MOST_VALUES]],
        inputs_more=max(0, len(output.plan.files) - MOST_VALUES),
        rows=[_cells(row) for row in rows],
    )


def _state(output: Output) -> str:
    if output.is_complete:
        return "complete"
    planned = sum(1 for _ in output.plan.units())
    return f"not complete: {len(output.units):,} of {planned:,} parts"


def _tiles(
    output: Output, found: Statistics, reached: Throughput | None
) -> Iterator[tuple[str, str, str]]:
    """Give the key figures: name, number, and what goes with it."""
    total = output.plan.total_rows
    yield "rows", f"{found.rows:,}", f"of {total:,}" if found.rows < total else "all there are"
    yield "errors", f"{found.failed:,}", f"{share(found.failed, found.rows)} of the rows"
    mean = f"{found.prompts.mean:,.0f} a row"
    yield "prompt tokens", compact(found.prompts.total), mean
    if len(found.answers):
        mean = f"{found.answers.mean:,.0f} a row"
        yield "generated tokens", compact(found.answers.total), mean
    if reached:
        replicas = reached.replica_seconds / reached.seconds
        yield "tokens per second", compact(reached.tokens_per_s), "in and out, pauses left out"
        yield "at work", duration(reached.seconds), f"{replicas:.1f} replicas in the mean"


def _charts(found: Statistics, stretches: Sequence[Moment]) -> Iterator[Chart]:
    if stretches:
        times = [duration(moment.at) for moment in stretches]
        tokens = {
            "prompt": [moment.prompt_tokens for moment in stretches],
            "generated": [moment.completion_tokens for moment in stretches],
        }
        if not len(found.answers):
            del tokens["generated"]
        yield time_series("Throughput", times, tokens, unit="tokens per second")
        replicas = {"replicas": [float(moment.replicas) for moment in stretches]}
        yield time_series("Replicas at work", times, replicas, unit="replicas")
    yield from _length_chart("Prompt lengths", found.prompts)
    yield from _length_chart("Answer lengths", found.answers)
    if any(found.latencies):
        names = [_milliseconds(index) for index in range(len(found.latencies))]
        yield histogram(
            "Time of a row in the engine", names, found.latencies, header=("from", "rows")
        )
    if any(found.scores):
        names = [f"{index / SCORE_BINS:.2f}" for index in range(SCORE_BINS)]
        yield histogram("Scores of the chosen label", names, found.scores, header=("from", "rows"))


def _length_chart(title: str, lengths: Lengths) -> Iterator[Chart]:
    bins = lengths.bins()
    if bins:
        names = [f"{item.low:,}" for item in bins]
        counts = [item.count for item in bins]
        yield histogram(title, names, counts, header=("tokens from", "rows"))


def _tables(found: Statistics) -> Iterator[tuple[str, list[Share]]]:
    titles = {"finish_reason": "Why answers ended", "label": "Labels"}
    for name, title in titles.items():
        if found.values.get(name):
            yield title, list(_shares(found.values[name]))


def _shares(counts: Mapping[str, int]) -> Iterator[Share]:
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ranked[MOST_VALUES:]
    if rest:
        others = f"{counted(len(rest), 'other value')}"
        ranked = [*ranked[:MOST_VALUES], (others, sum(count for _, count in rest))]
    for name, count in ranked:
        yield Share(name, count, round(100 * count / total, 2), share(count, total))


def _errors(found: Statistics) -> Iterator[ErrorClass]:
    for name, count in found.errors.most_common():
        yield ErrorClass(name, count, share(count, found.rows), found.examples[name])


def _settings(output: Output) -> list[tuple[str, str]]:
    """Give the job as it was run; of outputs that lack it, what decided their results."""
    try:
        values = load_job(output.store).model_dump(mode="json", exclude_defaults=True)
    except JobError:
        values = {k: v for k, v in output.plan.fingerprint.items() if v not in (None, "", "{}")}
    return [(name, _spelled(value)) for name, value in values.items()]


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    names = [name for name in row if name not in (*FIRST, *LAST)]
    ordered = [*FIRST, *names, *(name for name in LAST if row.get(name) is not None)]
    cells = []
    for name in ordered:
        text = _spelled(row.get(name))[:LONGEST_TEXT]
        folded = len(text) > FOLDED
        cells.append(Cell(name, f"{text[:FOLDED]}…" if folded else text, text if folded else None))
    return cells


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "null"
    return json.dumps(value, ensure_ascii=False, default=str)


def _milliseconds(index: int) -> str:
    """Name a bucket of latencies by its lower end."""
    start = 0 if index == 0 else 1 << index
    return f"{start} ms" if start < 1000 else f"{start / 1000:.0f} s"
