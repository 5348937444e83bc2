"""Figures over all rows of an output, from the few columns that they need, in bounded memory."""

import random
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .commit import PART_KEY, Receipt
from .lengths import Lengths
from .output import DamagedPartError, Output
from .plan import Unit

PART_THREADS = 8
BATCH_ROWS = 8192
SCORE_BINS = 20
EXAMPLES = 3
UNCLASSIFIED = "error"  # what older versions do not tell apart
COUNTED = ("finish_reason", "label")


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """A row that failed."""

    source_file: str
    source_row: int
    message: str


@dataclass(slots=True)
class Statistics:
    """Figures of some parts.

    Attributes:
        rows: that they hold.
        failed: rows whose error is filled.
        prompts: lengths of the prompts in tokens.
        answers: lengths of the answers in tokens.
        values: of finish_reason and label, how often each value occurs.
        scores: rows by label_score, in equal bins from 0 to 1.
        errors: failed rows by the class of their error.
        examples: of each class, the first few rows.
        latencies: rows by their time in the engine, as in a receipt.
        receipts: of the parts.
        damaged: parts that can't be read.
    """

    rows: int = 0
    failed: int = 0
    prompts: Lengths = field(default_factory=Lengths)
    answers: Lengths = field(default_factory=Lengths)
    values: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[ErrorExample]] = field(default_factory=lambda: defaultdict(list))
    latencies: list[int] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def merge(self, other: "Statistics") -> None:
        """Add the figures of other parts."""
        self.rows += other.rows
        self.failed += other.failed
        self.prompts.merge(other.prompts)
        self.answers.merge(other.answers)
        for name, counts in other.values.items():
            self.values[name].update(counts)
        self.scores = _added(self.scores, other.scores)
        self.errors.update(other.errors)
        for kind, examples in other.examples.items():
            room = EXAMPLES - len(self.examples[kind])
            self.examples[kind] += examples[:room]
        self.latencies = _added(self.latencies, other.latencies)
        self.receipts += other.receipts
        self.damaged += other.damaged

    def add(self, batch: pa.RecordBatch) -> None:
        """Count some rows of a part."""
        names = set(batch.schema.names)
        self.rows += batch.num_rows
        if "prompt_tokens" in names:
            self.prompts.add(batch.column("prompt_tokens").drop_null().to_numpy())
        if "completion_tokens" in names:
            self.answers.add(batch.column("completion_tokens").drop_null().to_numpy())
        for name in names.intersection(COUNTED):
            self.values[name].update(_counts(batch.column(name)))
        if "label_score" in names:
            scores = batch.column("label_score").drop_null().to_numpy()
            counts, _ = np.histogram(scores, SCORE_BINS, (0.0, 1.0))
            self.scores = _added(self.scores, counts.tolist())
        if batch.column("error").null_count < batch.num_rows:
            self._add_errors(batch.filter(batch.column("error").is_valid()))

    def _add_errors(self, failed: pa.RecordBatch) -> None:
        self.failed += failed.num_rows
        kinds = pa.array([UNCLASSIFIED] * failed.num_rows)
        if "error_class" in failed.schema.names:
            kinds = failed.column("error_class").fill_null(UNCLASSIFIED)
        self.errors.update(_counts(kinds))
        for kind in self.errors:
            room = EXAMPLES - len(self.examples[kind])
            if room > 0:
                chosen = failed.filter(pc.equal(kinds, kind)).slice(0, room)
                rows = chosen.select(["source_file", "source_row", "error"]).to_pylist()
                self.examples[kind] += [ErrorExample(*row.values()) for row in rows]


def gather(output: Output) -> Statistics:
    """Read all parts of an output; those that can't be read are named in the result.

    Raises:
        StorageError: the output can't be reached.
    """
    found = Statistics()
    with ThreadPoolExecutor(PART_THREADS) as pool:
        for part in pool.map(lambda unit: _part(output, unit), output.units):
            found.merge(part)
    return found


def sample_rows(output: Output, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw rows by chance, the same ones for a seed, and give them in source order.

    A value that no Python object can hold is given as None.
    """
    ends = list(accumulate(unit.rows for unit in output.units))
    total = ends[-1] if ends else 0
    drawn = sorted(random.Random(seed).sample(range(total), min(count, total)))  # noqa: S311
    wanted: dict[Unit, list[int]] = defaultdict(list)
    for place in drawn:
        index = bisect_right(ends, place)
        unit = output.units[index]
        wanted[unit].append(place - (ends[index] - unit.rows))
    rows: list[dict[str, Any]] = []
    for unit, places in wanted.items():
        try:
            with output.part(unit) as parquet:
                rows += _rows_at(parquet, places)
        except DamagedPartError:
            continue
    return rows


def _part(output: Output, unit: Unit) -> Statistics:
    found = Statistics()
    try:
        with output.part(unit) as parquet:
            found.receipts.append(_receipt(parquet))
            found.latencies = list(found.receipts[0].latencies)
            names = ["prompt_tokens", "completion_tokens", *COUNTED, "label_score", "error"]
            if found.receipts[0].failed:
                names += ["error_class", "source_file", "source_row"]
            present = [name for name in names if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(BATCH_ROWS, columns=present):
                found.add(batch)
    except (DamagedPartError, KeyError, TypeError, ValueError) as error:
        return Statistics(damaged=[f"{output.plan.part_name(unit)}: {error}"])
    return found


def _receipt(parquet: pq.ParquetFile) -> Receipt:
    return Receipt.from_json((parquet.metadata.metadata or {})[PART_KEY])


def _rows_at(parquet: pq.ParquetFile, places: Sequence[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    start, left = 0, list(places)
    for batch in parquet.iter_batches(BATCH_ROWS):
        while left and left[0] < start + batch.num_rows:
            rows.append(_row(batch, left.pop(0) - start))
        start += batch.num_rows
        if not left:
            break
    return rows


def _row(batch: pa.RecordBatch, index: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[index].as_py()
        except (ValueError, OverflowError, pa.ArrowException):
            row[name] = None
    return row


def _counts(column: pa.Array) -> dict[str, int]:
    counted = pc.value_counts(column.drop_null())
    return {item["values"]: item["counts"] for item in counted.to_pylist()}


def _added(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip_longest(left, right, fillvalue=0)]
