"""Prompts on standard input, with the model that ships with the repository."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model import Engine, EngineConfig, SamplingParams

from .conftest import Command, Finished

ROOT = Path(__file__).parents[2]
CAUSAL = str(ROOT / "examples" / "demo-model" / "causal-lm")
CLASSIFIER = str(ROOT / "examples" / "demo-model" / "classifier")
TAGGER = str(ROOT / "examples" / "tagger")
PROMPTS = [
    "Name the section of this Debian package.\u2028libfoo-dev: headers of foo",
    "Write a synopsis for this Debian package. bar",
    "x",
]
LINES = "".join(f"{prompt}\n" for prompt in PROMPTS).encode()

Filter = Callable[..., Finished]


@pytest.fixture
def filtered(gemmaray: Command, monkeypatch: pytest.MonkeyPatch) -> Filter:
    """Run the command on this input."""

    def run(data: bytes, *arguments: str) -> Finished:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return gemmaray(*arguments)

    return run


@pytest.fixture(scope="module")
def generated() -> list[str]:
    """What the engine itself says to the prompts."""
    with Engine(EngineConfig(checkpoint=CAUSAL, threads=1)) as engine:
        chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
        return [output.text for output in engine.generate(chats, SamplingParams(max_tokens=8))]


def test_each_line_is_answered_by_one_line_in_order(filtered: Filter, generated: list[str]) -> None:
    finished = filtered(LINES, "generate", "-", "-", "--model", CAUSAL, "--max-tokens", "8")
    assert finished.status == 0
    assert finished.out == "".join(text.replace("\n", "\\n") + "\n" for text in generated)
    assert finished.err.startswith("3 prompts (chat template), 0 errors; tokens: ")


def test_output_is_standard_output_unless_said_otherwise(
    filtered: Filter, generated: list[str]
) -> None:
    line = PROMPTS[0].encode()  # and no line break at the end
    finished = filtered(line, "generate", "-", "--model", CAUSAL, "--max-tokens", "8", "-q")
    assert finished == (0, f"{generated[0]}\n", "")


def test_answers_have_the_form_that_is_asked_for(filtered: Filter) -> None:
    command = ("generate", "-", "--model", CAUSAL, "--max-tokens", "40", "-q")
    chosen = filtered(LINES, *command, "--choice", "net", "--choice", "web")
    assert chosen.status == 0
    assert set(chosen.out.split()) <= {"net", "web"}
    refused = filtered(LINES, *command, "--regex", "(?=a)a")
    assert refused.status != 0
    assert refused.out == ""
    assert "regex: look-around" in refused.err


def test_a_template_takes_the_line(filtered: Filter, generated: list[str]) -> None:
    word = PROMPTS[1].rpartition(" ")[2].encode()
    template = PROMPTS[1].rpartition(" ")[0] + " {line}"
    finished = filtered(
        word, "generate", "-", "--model", CAUSAL, "--prompt", template, "--max-tokens", "8"
    )
    assert finished.out == f"{generated[1]}\n"


def test_a_line_that_fails_keeps_its_place(filtered: Filter, generated: list[str]) -> None:
    data = b"\n".join([b"", PROMPTS[2].encode(), b"\xff\xfe", b"x " * 9000]) + b"\n"
    finished = filtered(data, "generate", "-", "--model", CAUSAL, "--max-tokens", "8")
    assert finished.status == 1
    assert finished.out == f"\n{generated[2]}\n\n\n".replace("\\n", "\n")
    first, second, third, summary = finished.err.splitlines()
    assert first == "gemmaray: line 1: column 'line' is empty"
    assert second.startswith("gemmaray: line 3: column 'line' is not valid UTF-8")
    assert third.startswith("gemmaray: line 4: the prompt has ")
    assert summary.startswith("4 prompts (chat template), 3 errors")


def test_json_lines_hold_what_a_job_would_write(filtered: Filter, generated: list[str]) -> None:
    finished = filtered(
        LINES + b"\n", "generate", "-", "--model", CAUSAL, "--max-tokens", "8", "--jsonl"
    )
    rows = [json.loads(line) for line in finished.out.splitlines()]
    assert [row.get("generated_text") for row in rows] == [*generated, None]
    assert [row["error"] is None for row in rows] == [True, True, True, False]
    assert {"finish_reason", "completion_tokens", "cumulative_logprob"} <= rows[0].keys()


def test_labels_are_a_word_a_tab_and_a_probability(filtered: Filter) -> None:
    with Engine(EngineConfig(checkpoint=CAUSAL, threads=1)) as engine:
        expected = engine.score_labels([PROMPTS[2]], [" libs", " doc"])[0]
    finished = filtered(
        b"x\n", "score-labels", "-", "--model", CAUSAL, "--labels", "libs,doc", "--raw"
    )
    label, probability = finished.out.split("\t")
    assert label == expected.label.strip()
    assert float(probability) == pytest.approx(expected.score, abs=1e-5)


def test_a_classifier_labels(filtered: Filter) -> None:
    label, probability = (
        filtered(LINES, "classify", "-", "--model", CLASSIFIER).out.splitlines()[0].split("\t")
    )
    assert label
    assert 0 < float(probability) <= 1


def test_entities_and_vectors_are_json(filtered: Filter) -> None:
    tagged = filtered(b"libfoo-dev - headers of foo\n", "tag", "-", "--model", TAGGER)
    (entity,) = json.loads(tagged.out)
    assert (entity["label"], entity["text"]) == ("PACKAGE", "libfoo-dev")
    embedded = filtered(b"x\ny\n", "embed", "-", "--model", CAUSAL, "--raw")
    vectors = [json.loads(line) for line in embedded.out.splitlines()]
    assert [len(vector) for vector in vectors] == [192, 192]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1, abs=1e-3)


def test_tokens_of_a_text_each_by_itself(filtered: Filter) -> None:
    line = "libssl-dev - headers"
    finished = filtered(
        line.encode(), "tag", "--model", TAGGER, "-", "--aggregation", "none", "--ignore-label", ""
    )
    tokens = json.loads(finished.out)
    assert "".join(token["text"] for token in tokens) == line
    assert [token["index"] for token in tokens] == list(range(1, len(tokens) + 1))


def test_a_long_line_is_cut_in_its_turn(filtered: Filter) -> None:
    data = ("word " * 300 + "\n" + "libfoo-dev: headers\n").encode()
    cut = ("--max-model-len", "32", "--long-texts", "truncate", "--jsonl")
    finished = filtered(data, "classify", "-", "--model", CLASSIFIER, *cut, "--top-k", "3")
    long, short = map(json.loads, finished.out.splitlines())
    assert finished.status == 0
    assert (long["truncated"], long["prompt_tokens"]) == (True, 32)
    assert (short["truncated"], len(short["label_scores"])) == (False, 3)


def test_states_of_tokens_in_windows(filtered: Filter) -> None:
    windows = ("--max-model-len", "16", "--long-texts", "stride", "--stride", "4", "--jsonl")
    asked = ("--pooling", "none", "--layer", "0", "--vector-dtype", "float16", "--raw")
    data = b"libssl-dev - Secure Sockets Layer toolkit, development files and headers"
    finished = filtered(data, "embed", "-", "--model", CAUSAL, *windows, *asked)
    answer = json.loads(finished.out)
    assert answer["windows"] > 1
    assert len(answer["embedding"]) == answer["prompt_tokens"] > 16
    assert {len(vector) for vector in answer["embedding"]} == {192}


def test_sampling_is_fixed_by_the_seed(filtered: Filter) -> None:
    command = ("generate", "-", "--model", CAUSAL, "--temperature", "1.5", "--max-tokens", "12")
    first, again = (filtered(LINES, *command, "--seed", "7").out for _ in range(2))
    assert first == again
    assert filtered(LINES, *command, "--seed", "8").out != first


def test_no_lines_are_no_answers(filtered: Filter) -> None:
    assert filtered(b"", "generate", "-", "--model", CAUSAL)[:2] == (0, "")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["generate", "-", "--model", "no/such-folder/at-all"], "no/such-folder/at-all"),
        (["classify", "-", "--model", CAUSAL], "classify needs"),
        (["generate", "-", "--model", CLASSIFIER], "generate needs"),
    ],
)
def test_a_model_that_cannot_is_refused(filtered: Filter, arguments: list[str], part: str) -> None:
    finished = filtered(b"x\n", *arguments)
    assert finished.status == 2
    assert finished.out == ""
    assert part in finished.err
    assert finished.err.count("\n") == 1


def test_a_reader_that_leaves_is_no_error() -> None:
    """`gemmaray ... | head -1`: no traceback when the pipe breaks."""
    program = Path(sys.executable).with_name("gemmaray")
    command = [program, "generate", "-", "--model", CAUSAL, "--max-tokens", "4", "--quiet"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"x\n" * 8)
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
