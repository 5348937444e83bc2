"""The load on servers: what is started and asked, and what is made of the answers."""

import json
import stat
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.load import METRICS, PERCENTILES, Load, drive
from benchmarks.online import show, with_template
from benchmarks.servers import model_name, running
from benchmarks.spec import OURS, BenchmarkError, Spec
from model.tokenizer import load_tokenizer

RESULT = {
    "completed": 2,
    "duration": 4.0,
    "request_throughput": 0.5,
    "output_throughput": 8.0,
    **{f"p{p}_{metric}": float(p) for p in PERCENTILES for metric in METRICS},
}


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_generator_is_asked_for_the_load_and_its_figures_are_read(tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    generator = program(
        tmp_path / "python",
        "import json, sys\nfrom pathlib import Path\n"
        "prompts = Path(sys.argv[sys.argv.index('--dataset-path') + 1]).read_text()\n"
        f"Path({str(seen)!r}).write_text(json.dumps([sys.argv, prompts]))\n"
        "folder = sys.argv[sys.argv.index('--result-dir') + 1]\n"
        f"Path(folder, 'result.json').write_text({json.dumps(RESULT)!r})\n",
    )
    load = Load(["a", "b", "c"], 16, rate=2.5, concurrency=4)
    figures = drive(generator, "http://127.0.0.1:1", "m", tmp_path, load)
    assert (figures["completed"], figures["refused"]) == (2, 1)
    assert figures["ttft_ms"] == figures["itl_ms"] == {"50": 50.0, "95": 95.0, "99": 99.0}
    argv, prompts = json.loads(seen.read_text())
    for name, value in (
        ("--request-rate", "2.5000"),
        ("--max-concurrency", "4"),
        ("--num-prompts", "3"),
        ("--custom-output-len", "16"),
        ("--base-url", "http://127.0.0.1:1"),
    ):
        assert argv[argv.index(name) + 1] == value
    assert [json.loads(line)["prompt"] for line in prompts.splitlines()] == ["a", "b", "c"]


def test_a_generator_that_fails_is_quoted(tmp_path: Path) -> None:
    generator = program(tmp_path / "python", "import sys\nsys.exit('no such server')")
    with pytest.raises(BenchmarkError, match="the load generator failed: no such server"):
        drive(generator, "http://127.0.0.1:1", "m", tmp_path, Load(["a"], 1))


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    program(tmp_path / "vllm" / "bin" / "python", "import sys\nsys.exit(3)")
    (tmp_path / "config.json").write_text('{"architectures": ["Gemma2ForCausalLM"]}')
    spec = Spec("vllm", tmp_path, "bfloat16", "cpu", 1)
    with (
        pytest.raises(BenchmarkError, match=r"ended with status 3: see .*server-vllm\.log"),
        running(spec, tmp_path),
    ):
        pytest.fail("it is not there")


def test_each_server_has_its_own_name_for_the_model(tmp_path: Path) -> None:
    names = {
        name: model_name(Spec(name, tmp_path / "mini", "bfloat16", "cpu", 1))
        for name in (OURS, "vllm", "transformers")
    }
    assert names == {OURS: "mini", "vllm": "mini", "transformers": str(tmp_path / "mini")}


def test_a_checkpoint_gets_gemmas_template(checkpoint: Path) -> None:
    chat = with_template(checkpoint)
    with_it, without = load_tokenizer(chat), load_tokenizer(checkpoint)
    assert with_it is not None
    assert without is not None
    assert with_it.has_chat_template
    assert not without.has_chat_template
    assert with_template(checkpoint) == chat


def test_the_table_sets_servers_beside_the_engine() -> None:
    console = Console(record=True, width=200, file=StringIO())
    times = {metric: {str(p): 1.5 for p in PERCENTILES} for metric in METRICS}
    line = {
        "engine": "vllm",
        "load": 5.0,
        "completed": 3,
        "refused": 1,
        "token_rate": 50.0,
        **times,
    }
    show([{"token_rate": 100.0}, line, {**line, "load": "full"}], console)
    text = console.export_text()
    assert "500%" in text
    assert "0.50" in text
    assert "2 / 2 / 2" in text
