import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from benchmarks import offline, whole_job
from benchmarks.bench import PARTS, arguments, command, results_file
from benchmarks.checkpoints import ensure
from benchmarks.compare import highest
from benchmarks.peers import launch
from benchmarks.spec import BenchmarkError, Spec
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


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_bench_is_a_command_that_is_understood(part: str, tmp_path: Path) -> None:
    script, *argv = command(part, tmp_path, arguments([]), tmp_path / "out.jsonl")[1:]
    module = {"offline.py": offline, "whole_job.py": whole_job}[Path(script).name]
    args = module.arguments(argv)
    assert [offline.variant(text)[0] for text in args.ours] == ["bf16", "int8"]
    assert {name for name, *_ in args.peers} == {"transformers", "vllm", "llama.cpp"}
    assert args.out == tmp_path / "out.jsonl"


def test_results_are_named_by_hardware_and_date() -> None:
    path = results_file({"cpu": "AMD EPYC (Zen 4)", "cores": 2}, "2026-01-31")
    assert path.name == "amd-epyc-zen-4-2-cores-2026-01-31.jsonl"


def test_texts_have_exactly_as_many_tokens(tmp_path: Path) -> None:
    checkpoint = ensure("tiny", folder=tmp_path / "tiny")
    texts = whole_job.prompts(checkpoint, 5, 37)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert [len(tokenizer.encode(text).ids) for text in texts] == [37] * 5
    assert len(set(texts)) == 5


def test_a_peer_starts_as_it_is_installed(checkpoint: Path, tmp_path: Path) -> None:
    python = tmp_path / "vllm" / "bin" / "python"
    spec = Spec("vllm", checkpoint, "bfloat16", "cpu", 2, settings={"kv_gib": 3})
    with pytest.raises(launch.PeerMissingError, match=r"install\.sh"):
        launch.prepare(spec, tmp_path)
    python.parent.mkdir(parents=True)
    python.touch()
    found = launch.prepare(spec, tmp_path)
    assert found.command("--replies", "9")[0] == str(python)
    assert found.environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert found.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"
    assert Spec.from_plain(json.loads(found.command()[3])) == spec


def test_peers_that_cannot_be_compared_are_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="causal language model"):
        launch.prepare(Spec("vllm", classifier, "bfloat16", "cpu", 2), tmp_path)
    with pytest.raises(BenchmarkError, match="CPUs only"):
        launch.prepare(Spec("llama.cpp", classifier, "bfloat16", "cuda", 2), tmp_path)
