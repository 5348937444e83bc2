import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import highest
from benchmarks.tables import BEGIN, END, latest, main, ratio, tables, write

MACHINE = {"cpu": "X", "cpu_capability": "AVX2", "cores": 2, "memory_gib": 8, "torch": "2"}


def line(engine: str, walls_s: list[float], **others: Any) -> dict[str, Any]:
    fields = {
        "benchmark": "offline",
        "run": "2026-01-31T10:00:00+00:00",
        "machine": MACHINE,
        "threads": 2,
        "engine": engine,
        "version": "1",
        "variant": "",
        "shape": "mini",
        "workload": "uniform:4",
        "precision": "bfloat16",
        "walls_s": walls_s,
        "total_tokens_per_s": 100.0,
        "gemm_gflops": 50.0,
        "ceiling_gflops": 200.0,
        "ceiling_pct": 25.0,
        "peak_rss_gib": 1.5,
        "start_s": 2.0,
    }
    return fields | others


def test_a_ratio_is_of_the_same_turns() -> None:
    # Both engines twice as slow in the second turn: the machine's doing, and no spread.
    assert ratio([4.0, 8.0, 4.4], [2.0, 4.0, 2.0]) == "2.00 (2.00 to 2.20)"
    assert ratio([3.0], [2.0]) == "1.50"


def test_tables_hold_every_engine_beside_the_baseline() -> None:
    lines = [line("vllm", [9.0]), line("gemmaray", [1.0]), line("vllm", [4.0])]
    lines.append(line("gemmaray", [2.0], variant="int8"))
    lines.append({"benchmark": "pipeline_overhead"})
    text = tables(lines, "vllm")
    assert "| uniform:4 | vllm 1 | 100 | 1.00 | 50 | 25 % | 1.50 | 2.0 |" in text
    assert "|  | gemmaray 1 | 100 | 4.00 | 50 | 25 % | 1.50 | 2.0 |" in text
    assert "|  | gemmaray 1 int8 | 100 | 2.00 |" in text
    assert "Matmul ceilings in the same run, GFLOP/s: bfloat16 200." in text


def test_a_whole_job_and_the_first_token_are_told() -> None:
    seconds = {"benchmark": "whole_job", "last_row_s": [10.0, 12.0], "ready_s": [1.0, 3.0]}
    ray = seconds | {"job": "gemmaray run", "ready_s": [None, None], "last_row_s": [5.0, 4.0]}
    lines = [
        line("vllm", [], **seconds, job="engine"),
        line("gemmaray", [], **ray),
        line("gemmaray", [], **seconds, job="first token"),
    ]
    text = tables(lines, "vllm")
    assert "| vllm 1 | 11.0 | 1.00 (1.00 to 1.00) | 2.0 | 1.50 |" in text
    assert "| gemmaray 1, `gemmaray run` | 4.5 | 2.50 (2.00 to 3.00) |  | 1.50 |" in text
    assert "first token, from a cold process: 11.0 s (gemmaray 1)." in text


def test_of_the_same_figure_the_last_one_counts() -> None:
    first, last, other = line("vllm", [1.0]), line("vllm", [2.0]), line("vllm", [3.0], variant="b")
    assert latest([first, other, last]) == [last, other]


def test_tables_are_written_between_their_marks(tmp_path: Path) -> None:
    document, results = tmp_path / "document.md", tmp_path / "results.jsonl"
    document.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    results.write_text(json.dumps(line("vllm", [1.0])) + "\n")
    for _ in range(2):  # the second time it finds its own text
        main([str(results), "--write", str(document)])
    text = document.read_text()
    assert text.startswith(f"above\n{BEGIN}\n\n2026-01-31, X")
    assert text.endswith(f"|\n\n{END}\nbelow\n")
    assert "old" not in text
    assert text.count("| vllm 1 |") == 1
    document.write_text("no marks")
    with pytest.raises(SystemExit, match="to write between"):
        write(document, "text")


def test_the_highest_ceiling_counts() -> None:
    assert highest([{"a": 1.0, "b": None}, {"a": 3.0, "b": 2.0}]) == {"a": 3.0, "b": 2.0}
    assert highest([{"a": None}]) == {"a": None}
    assert highest([]) == {}
