import io

import pytest
from rich.console import Console

from cluster import display
from cluster.display import Meter, describe, watching
from cluster.summary import summary
from cluster.wording import counted, duration
from pipelines import ErrorCount, JobReport, Progress
from pipelines.quarantine import BadFile


def progress(
    seconds: float, rows: int, read: int = 0, written: int = 0, failed: int = 0, total: int = 1000
) -> Progress:
    return Progress(
        rows_total=total,
        rows_done=rows,
        rows_failed=failed,
        prompt_tokens=read,
        completion_tokens=written,
        replicas=2,
        elapsed_s=seconds,
    )


def report(**changes: object) -> JobReport:
    values = {
        "rows_total": 1200,
        "rows_done": 1200,
        "rows_failed": 1,
        "prompt_tokens": 6000,
        "completion_tokens": 3000,
        "replicas": 1,
        "elapsed_s": 90.0,
        "output": "/data/out",
        "parts": 3,
        "rows_resumed": 0,
        "chat": True,
        "plan": "0" * 64,
        "errors": (ErrorCount("PromptError", 1, "a.parquet", 7, "the prompt\nis empty"),),
    }
    return JobReport(**{**values, **changes})


def test_a_rate_is_what_was_done_since_over_the_time_since() -> None:
    meter = Meter()
    meter.add(progress(10, rows=100, read=1000, written=10))
    assert meter.per_second("prompt_tokens") == 0
    meter.add(progress(15, rows=150, read=2000, written=510))
    assert meter.per_second("rows_done") == 10
    assert meter.per_second("prompt_tokens") == 200
    assert meter.per_second("completion_tokens") == 100


def test_a_rate_forgets_what_is_long_past() -> None:
    meter = Meter(window_s=10)
    for second, read in ((1, 1), (5, 100_000), (14, 100_090), (15, 100_100)):
        meter.add(progress(second, rows=0, read=read))
    assert meter.per_second("prompt_tokens") == 10


def test_the_time_that_replicas_take_to_start_does_not_count() -> None:
    meter = Meter()
    for second, read in ((0, 0), (10, 0), (20, 0), (21, 500)):
        meter.add(progress(second, rows=0, read=read))
    assert meter.per_second("prompt_tokens") == 500


def test_rows_of_an_earlier_run_do_not_count_as_speed() -> None:
    meter = Meter()
    meter.add(progress(1, rows=900, read=1))
    meter.add(progress(2, rows=901, read=10))
    assert "ETA 0:01:39" in describe(progress(2, rows=901), meter)


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    meter = Meter()
    meter.add(progress(0, rows=0, read=1))
    last = progress(10, rows=250, read=12_001, written=3400, failed=2)
    meter.add(last)
    assert describe(last, meter) == (
        "250/1,000 rows | 1,200 tokens/s in, 340 out | ETA 30.0 s | 2 replicas | 2 errors"
    )


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=40)
    with watching(console) as show:
        for second in range(11):
            now = 100.0 + second
            show(progress(second, rows=second))
    lines = console.file.getvalue().splitlines()
    assert [line.partition("/")[0] for line in lines] == ["0", "5", "10"]
    assert all(line.endswith("| 2 replicas") for line in lines)


def test_on_a_terminal_there_is_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with watching(console) as show:
        show(progress(1, rows=500, failed=1))
    shown = console.file.getvalue()
    assert "500/1,000 rows" in shown
    assert "1 error" in shown
    assert "50%" in shown


def test_quiet_shows_nothing() -> None:
    console = Console(file=io.StringIO(), quiet=True)
    with watching(console) as show:
        show(progress(1, rows=500))
    assert console.file.getvalue() == ""


def test_the_summary_says_what_was_done_and_where_it_is() -> None:
    assert summary(report()) == (
        "rows     1,200 rows, 1 error\n"
        "errors   1 row: PromptError, such as a.parquet row 7: the prompt is empty\n"
        "         each failed row says why in its column `error`\n"
        "tokens   6,000 in, 3,000 out, 100 per second\n"
        "time     0:01:30 on 1 replica\n"
        "prompt   in a user turn of the chat template\n"
        "output   /data/out (3 parts)\n"
        "read it  pyarrow.parquet.read_table('/data/out')"
    )


def test_errors_are_summed_up_by_class() -> None:
    errors = (
        ErrorCount("PromptError", 1200, "a.parquet", 7, "x" * 200),
        ErrorCount("other", 1),
    )
    lines = summary(report(errors=errors, rows_failed=1201)).splitlines()
    assert lines[1] == f"errors   1,200 rows: PromptError, such as a.parquet row 7: {'x' * 97}..."
    assert lines[2] == "         1 row: other"


def test_the_summary_of_a_resumed_job_says_so() -> None:
    text = summary(report(rows_resumed=1200, rows_failed=0, chat=False, elapsed_s=0.0))
    assert "1,200 rows, 0 errors (1,200 were there already)\ntokens" in text
    assert "plain text" in text


def test_the_summary_names_files_that_were_left_out() -> None:
    bad = [BadFile(f"{name}.parquet", "/in", 0, "", "is encrypted") for name in "abcd"]
    assert "left out 1 input file, see _job/quarantine.json: a.parquet is encrypted\n" in summary(
        report(quarantined=tuple(bad[:1]))
    )
    text = summary(report(quarantined=tuple(bad)))
    assert "4 input files, see" in text
    assert "c.parquet is encrypted; ...\n" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "0:01:00"), (90000, "1 day, 1:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_and_nouns() -> None:
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
