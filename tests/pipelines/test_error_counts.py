from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ErrorCount, JobError
from pipelines.commit import Receipt
from pipelines.error_counts import MOST_CLASSES, merged
from pipelines.error_limit import ErrorLimit
from pipelines.failed_rows import count_errors, failed_rows
from pipelines.ledger import Ledger
from pipelines.plan import Unit

from .test_plan import plan

NAMES = st.lists(st.none() | st.sampled_from([f"Error{n}" for n in range(12)]), max_size=60)


def table(names: list[str | None]) -> pa.Table:
    messages = [name and f"{name} in {row}" for row, name in enumerate(names)]
    columns = {"error_class": names, "error": messages}
    return pa.table({key: pa.array(values, pa.string()) for key, values in columns.items()})


@given(NAMES)
def test_errors_are_counted_by_class_with_the_first_as_example(names: list[str | None]) -> None:
    wanted = Counter(name for name in names if name)
    counts = count_errors(table(names), "a.parquet", 100)
    assert sum(item.count for item in counts) == wanted.total()
    assert len(counts) <= MOST_CLASSES + 1
    named = [item for item in counts if item.name != "other"]
    assert [item.count for item in named] == sorted((i.count for i in named), reverse=True)
    for item in named:
        first = names.index(item.name)
        assert item == ErrorCount(
            item.name, wanted[item.name], "a.parquet", 100 + first, f"{item.name} in {first}"
        )


@given(st.lists(NAMES, max_size=6))
def test_no_row_is_lost_when_counts_are_added_up(units: list[list[str | None]]) -> None:
    total: tuple[ErrorCount, ...] = ()
    for number, names in enumerate(units):
        total = merged((*total, *count_errors(table(names), f"{number}", 0)))
    assert sum(item.count for item in total) == sum(name is not None for u in units for name in u)
    assert len(total) <= MOST_CLASSES + 1


def test_a_long_message_is_cut() -> None:
    long = pa.table({"error_class": ["E"], "error": ["x" * 10_000]})
    (count,) = count_errors(long, "a", 0)
    assert count.message == "x" * 300


def test_only_errors_that_may_pass_are_worth_a_try() -> None:
    certain = ["PromptError", "ChatError", "InputError"]
    names = table([None, *certain, "RowKilledProcess", None])
    assert failed_rows(names, everything=False) == [4]
    assert failed_rows(names, everything=True) == [1, 2, 3, 4]
    older = names.drop_columns(["error_class"])
    assert failed_rows(older, everything=False) == [1, 2, 3, 4]


def ledger(done: int, failed: int, total: int) -> Ledger:
    """A job of `total` rows in one unit per row, some of them done."""
    made = Ledger(plan(total, unit_rows=1))
    for row in range(done):
        bad = int(row < failed)
        errors = (ErrorCount("PromptError", 1, "f0.parquet", row, "too long"),) * bad
        receipt = Receipt("p", (0, row, row + 1), ("f0.parquet", "v", "d"), "a", 1, bad, 3, 2)
        made.add(replace(receipt, errors=errors))
    return made


@pytest.mark.parametrize(
    ("rate", "done", "failed", "total", "stops"),
    [
        (None, 500, 500, 5000, False),  # not a half of the first 1,000 yet
        (None, 501, 501, 5000, True),
        (None, 5000, 2500, 5000, False),
        (None, 5000, 2501, 5000, True),
        (None, 7, 7, 7, False),  # a small job ends, if nothing else was said
        (0.5, 7, 4, 7, True),
        (0.5, 6, 3, 7, False),
        (0.0, 1, 1, 5000, True),
        (0.0, 5000, 0, 5000, False),
        (1.0, 5000, 5000, 5000, False),
    ],
)
def test_too_many_errors_stop_the_job(
    rate: float | None, done: int, failed: int, total: int, *, stops: bool
) -> None:
    books = ledger(done, failed, total)
    if not stops:
        ErrorLimit(rate).check(books)
        return
    with pytest.raises(JobError) as error:
        ErrorLimit(rate).check(books)
    message = str(error.value)
    assert "\n" not in message
    assert f"{failed:,} of {done:,} rows failed" in message
    assert f"{failed:,} PromptError (f0.parquet row 0: too long)" in message
    assert "--max-error-rate" in message


def test_a_ledger_sums_up_and_takes_each_unit_once() -> None:
    books = ledger(done=5, failed=2, total=9)
    assert (books.parts, books.rows, books.failed) == (5, 5, 2)
    assert (books.prompt_tokens, books.completion_tokens) == (15, 10)
    books.add(Receipt("p", (0, 4, 5), ("f0.parquet", "v", "d"), "b", 1, 1, 3, 2))
    assert (books.parts, books.failed) == (5, 2)
    assert list(books.missing()) == [Unit(0, row, row + 1) for row in range(5, 9)]
    assert [books[Unit(0, row, row + 1)].failed for row in range(3)] == [1, 1, 0]
    with pytest.raises(KeyError):
        books[Unit(0, 8, 9)]


def test_a_ledger_is_small_however_many_units_there_are() -> None:
    books = Ledger(plan(100_000, unit_rows=1))
    assert books._failed.itemsize * len(books._failed) == 400_000
