import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.commit import Receipt
from pipelines.lengths import Lengths, round_up
from pipelines.output import open_output
from pipelines.statistics import EXAMPLES, SCORE_BINS, gather, sample_rows
from pipelines.timeline import covered, moments, throughput

from .outputs import STARTED, UNIT_S, Made, failed, make_output, results
from .test_verify import cut_off

RECEIPT = Receipt("p", (0, 0, 1), ("f", "v", "d"), "x", 1, 0, 1, 1)


def all_rows(made: Made) -> list[dict[str, object]]:
    """The result columns of every row, as they were made."""
    rows: list[dict[str, object]] = []
    for unit in made.units:
        made_of = results(made.plan.files[unit.file].name, unit)
        rows += pa.table(made_of).to_pylist()
    return rows


def test_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    rows = all_rows(made)
    found = gather(open_output(made.url))
    assert (found.rows, found.failed) == (70, sum(row["error"] is not None for row in rows))
    for name in ("finish_reason", "label"):
        assert found.values[name] == Counter(row[name] for row in rows if row[name] is not None)
    assert found.prompts.total == sum(int(str(row["prompt_tokens"])) for row in rows)
    answers = [int(str(row["completion_tokens"])) for row in rows if row["completion_tokens"]]
    assert (len(found.answers), found.answers.total) == (len(answers), sum(answers))
    assert sum(found.scores) == len(rows) - found.failed
    assert len(found.scores) == SCORE_BINS
    assert sum(found.scores[: SCORE_BINS // 2]) == 0
    assert found.errors == {"PromptError": found.failed}
    first = found.examples["PromptError"][0]
    assert (first.source_file, first.source_row, first.message) == ("f0.parquet", 4, "row 4 is bad")
    assert len(found.examples["PromptError"]) == EXAMPLES
    assert found.latencies == [0, 0, 70]
    assert len(found.receipts) == 7
    assert found.damaged == []


def test_parts_without_classes_or_answers_are_counted(tmp_path: Path) -> None:
    made = make_output(tmp_path, rows=(20,))
    for unit in made.units:
        table = made.table(unit).drop_columns(["error_class"])
        made.rewrite(unit, table, latencies=())
    found = gather(open_output(made.url))
    assert found.errors == {"error": sum(map(failed, range(20)))}
    assert found.latencies == []


def test_parts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    cut_off(made, made.units[1])
    found = gather(open_output(made.url))
    assert found.rows == 70 - 16
    (name,) = found.damaged
    assert name.startswith(made.plan.part_name(made.units[1]))


def test_a_sample_is_of_whole_rows_and_the_same_each_time(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    output = open_output(made.url)
    rows = sample_rows(output, 12, seed=3)
    assert str(rows) == str(sample_rows(output, 12, seed=3))  # NaN does not equal itself
    assert str(rows) != str(sample_rows(output, 12, seed=4))
    places = [(row["source_file"], row["source_row"]) for row in rows]
    assert places == sorted(set(places))
    for row in rows:
        assert row["text"] == f"text {row['source_row']}"
        assert (row["error"] is None) == (row["generated_text"] == f"answer {row['source_row']}")
    assert len(sample_rows(output, 1000)) == 70
    assert sample_rows(open_output(make_output(tmp_path / "none", parts=0).url), 5) == []


def test_a_value_that_python_cannot_hold_is_none(tmp_path: Path) -> None:
    far = pa.array([2**62] * 4, pa.int64()).view(pa.timestamp("us"))
    made = make_output(tmp_path, rows=(4,), source=lambda _: pa.table({"when": far}))
    assert [row["when"] for row in sample_rows(open_output(made.url), 4)] == [None] * 4


@given(st.lists(st.integers(0, 3000), max_size=200), st.floats(0.001, 1.0), st.integers(1, 25))
def test_lengths_are_counted_as_in_a_sorted_list(
    values: list[int], share: float, most: int
) -> None:
    lengths, half = Lengths(values[::2]), Lengths(values[1::2])
    lengths.merge(half)
    assert len(lengths) == len(values)
    assert lengths.total == sum(values)
    assert lengths.longest == max(values, default=0)
    least = lengths.percentile(share)
    if values:
        assert sum(value <= least for value in values) >= share * len(values)
        assert sum(value < least for value in values) < share * len(values)
    bins = lengths.bins(most)
    assert sum(item.count for item in bins) == len(values)
    assert len(bins) <= most + 1
    for item in bins:
        assert item.count == sum(item.low <= value <= item.high for value in values)


def test_a_length_that_cannot_be_does_not_take_memory() -> None:
    lengths = Lengths([2**31 - 1, -5])
    assert len(lengths) == 2
    assert lengths.counts.nbytes < 1 << 24


@given(st.floats(0.01, 1e9))
def test_widths_are_round(value: float) -> None:
    width = round_up(value)
    assert width >= value
    assert str(width).rstrip("0") in {"1", "2", "5"}
    assert width == 1 or width / 2.5 < value


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12))
def test_the_union_of_intervals_is_measured(starts: list[tuple[int, int]]) -> None:
    intervals = [(begin, begin + length) for begin, length in starts]
    seconds = {second for begin, end in intervals for second in range(begin, end)}
    assert covered(intervals) == len(seconds)


def test_throughput_leaves_pauses_out() -> None:
    def part(replica: str, begun: float) -> Receipt:
        return replace(RECEIPT, replica=replica, begun=begun, finished=begun + 10, prompt_tokens=50)

    reached = throughput([part("a", 100), part("b", 105), part("a", 1000), RECEIPT])
    assert reached is not None
    assert (reached.seconds, reached.replica_seconds) == (25, 30)
    assert reached.tokens_per_s == pytest.approx(3 * 51 / 25)
    assert reached.tokens_per_replica_s == pytest.approx(3 * 51 / 30)
    assert throughput([RECEIPT]) is None


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_moments_lose_nothing(count: int, rng: random.Random) -> None:
    parts = [
        replace(
            RECEIPT,
            rows=rng.randint(1, 50),
            prompt_tokens=rng.randint(0, 500),
            replica=rng.choice("abc"),
            begun=(begun := STARTED + rng.random() * 100),
            finished=begun + UNIT_S * (0.1 + rng.random()),
        )
        for _ in range(rng.randint(1, 20))
    ]
    found = moments(parts, count)
    width = (max(p.finished for p in parts) - min(p.begun for p in parts)) / count
    assert sum(m.rows for m in found) * width == pytest.approx(sum(p.rows for p in parts))
    tokens = sum(p.prompt_tokens for p in parts)
    assert sum(m.prompt_tokens for m in found) * width == pytest.approx(tokens)
    assert max(m.replicas for m in found) <= len({p.replica for p in parts})
    assert [m.at for m in found] == pytest.approx([width * i for i in range(count)], abs=1e-3)
    assert moments([RECEIPT], count) == []
