"""Flags become the job that a person would have written as a file."""

from pathlib import Path
from typing import Any

import pytest

from cluster import launch
from model.params import SamplingParams
from pipelines.job import JobSpec

from .conftest import Command

PLACE = ("in.parquet", "out", "--model", "m")
PROMPT = (*PLACE, "--prompt-column", "text")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[JobSpec, dict[str, Any]]]:
    """Jobs that would have been run."""
    jobs: list[tuple[JobSpec, dict[str, Any]]] = []

    def record(spec: JobSpec, **settings: Any) -> int:
        jobs.append((spec, settings))
        return 0

    monkeypatch.setattr(launch, "launch", record)
    return jobs


@pytest.fixture
def job_of(gemmaray: Command, launched: list[tuple[JobSpec, dict[str, Any]]]):
    def job(*arguments: str) -> JobSpec:
        finished = gemmaray(*arguments)
        assert finished.status == 0, finished.err
        return launched[-1][0]

    return job


def test_a_plain_command_leaves_every_default_to_the_job(job_of) -> None:
    expected = JobSpec(
        input="in.parquet", output="out", model="m", prompt_column="text", tasks=["generate"]
    )
    assert job_of("generate", *PROMPT) == expected


def test_every_option_reaches_the_job(job_of) -> None:
    job = job_of(
        "generate", "a/*.parquet", "s3://b/out", "--model", "google/gemma-2-2b-it",
        "--revision", "main", "--prompt", "Say {body}", "--chat", "--system", "fold",
        "--keep", "id,body", "--limit", "10", "--unit-rows", "5", "--max-error-rate", "0.1",
        "--replicas", "1..8",
        "--tensor-parallel", "2", "--dtype", "float32", "--device", "cpu",
        "--max-model-len", "512", "--max-tokens", "7", "--temperature", "0.5", "--top-p", "0.9",
        "--on-bad-file", "quarantine", "--s3-endpoint", "http://127.0.0.1:9000",
        "--s3-profile", "lab", "--top-k", "40", "--seed", "3",
        "--stop", "a", "--stop", "b", "--ignore-eos",
    )  # fmt: skip
    assert job == JobSpec(
        input="a/*.parquet",
        output="s3://b/out",
        model="google/gemma-2-2b-it",
        revision="main",
        prompt="Say {body}",
        chat="chat",
        system="fold",
        keep=["id", "body"],
        limit=10,
        unit_rows=5,
        max_error_rate=0.1,
        on_bad_file="quarantine",
        s3={"endpoint": "http://127.0.0.1:9000", "profile": "lab"},
        resources={
            "replicas": "1..8",
            "tensor_parallel": 2,
            "dtype": "float32",
            "device": "cpu",
            "max_model_len": 512,
        },
        tasks=[
            {
                "generate": {
                    "max_tokens": 7,
                    "temperature": 0.5,
                    "top_p": 0.9,
                    "top_k": 40,
                    "seed": 3,
                    "stop": ["a", "b"],
                    "ignore_eos": True,
                }
            }
        ],
    )


def test_texts_may_be_longer_than_the_model(job_of) -> None:
    for command in ("classify", "tag", "embed"):
        job = job_of(command, *PROMPT, "--long-texts", "stride", "--stride", "0")
        assert (job.long_texts, job.stride) == ("stride", 0)


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        (["classify"], "classify"),
        (["tag"], "tag_tokens"),
        (
            ["score-labels", "--labels", "bad,good", "--normalize", "mean"],
            {"score_labels": {"labels": ["bad", "good"], "normalize": "mean"}},
        ),
        (["embed"], "embed"),
        (
            ["embed", "--pooling", "mean", "--no-normalize"],
            {"embed": {"pooling": "mean", "normalize": False}},
        ),
        (
            ["embed", "--pooling", "none", "--layer", "0", "--vector-dtype", "float16"],
            {"embed": {"pooling": "none", "layer": 0, "dtype": "float16"}},
        ),
        (
            ["classify", "--function-to-apply", "none", "--top-k", "3"],
            {"classify": {"function_to_apply": "none", "top_k": 3}},
        ),
        (
            ["tag", "--aggregation", "first", "--ignore-label", "O", "--ignore-label", "X"],
            {"tag_tokens": {"aggregation": "first", "ignore_labels": ["O", "X"]}},
        ),
    ],
)
def test_each_command_is_its_task(job_of, arguments: list[str], task: object) -> None:
    name, *rest = arguments
    job = job_of(name, *PROMPT, *rest)
    assert (
        job.tasks
        == JobSpec(input="i", output="o", model="m", prompt_column="c", tasks=[task]).tasks
    )


@pytest.mark.parametrize(
    ("flag", "chat"), [((), "auto"), (("--chat",), "chat"), (("--raw",), "raw")]
)
def test_chat_and_raw(job_of, flag: tuple[str, ...], chat: str) -> None:
    assert job_of("generate", *PROMPT, *flag).chat == chat


def test_a_falsy_value_is_no_missing_value(job_of) -> None:
    job = job_of("generate", *PROMPT, "--temperature", "0", "--seed", "0", "--top-k", "0")
    assert job.tasks.generate == SamplingParams(temperature=0.0, seed=0, top_k=0)


def test_anonymous_is_a_flag(job_of) -> None:
    assert job_of("classify", *PROMPT, "--s3-anonymous").s3.anonymous


def test_the_form_of_an_answer(job_of, gemmaray: Command, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array", "items": {"const": "é"}}', encoding="utf-8")
    for flags, settings in (
        (["--json-schema", str(schema)], {"json_schema": schema.read_text(encoding="utf-8")}),
        (["--json-object"], {"json_object": True}),
        (["--regex", "a+"], {"regex": "a+"}),
        (["--choice", "yes, or", "--choice", "no"], {"choice": ["yes, or", "no"]}),
    ):
        assert job_of("generate", *PROMPT, *flags).tasks.generate == SamplingParams(**settings)
    missing = gemmaray("generate", *PROMPT, "--json-schema", str(tmp_path / "none"))
    assert missing.status != 0
    assert "--json-schema: " in missing.err
    assert "can't be read" in missing.err
    twice = gemmaray("generate", *PROMPT, "--regex", "a", "--json-object")
    assert twice.status != 0
    assert "give one of json_object and regex" in twice.err


def test_keep_star_is_every_column(job_of) -> None:
    assert job_of("classify", *PROMPT, "--keep", "*").keep == "*"


def test_defaults_in_the_help_are_the_real_ones(gemmaray: Command) -> None:
    shown = {"--max-tokens": SamplingParams().max_tokens, "--temperature": 0.0, "--top-p": 1}
    lines = gemmaray("generate", "--help").out.splitlines()
    for flag, default in shown.items():
        assert getattr(SamplingParams(), flag[2:].replace("-", "_")) == default
        at = next(i for i, line in enumerate(lines) if f" {flag} " in line)
        assert f"[default: ({default})]" in "".join(lines[at : at + 3])


def test_the_address_comes_from_the_flag_or_the_environment(
    gemmaray: Command, launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemmaray("classify", *PROMPT, "--address", "host:1")
    monkeypatch.setenv("RAY_ADDRESS", "host:2")
    gemmaray("classify", *PROMPT, "--quiet")
    assert [settings for _, settings in launched] == [
        {"address": "host:1", "quiet": False},
        {"address": "host:2", "quiet": True},
    ]


def test_run_reads_the_job_file(gemmaray: Command, launched, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("input: a.parquet\noutput: out\nmodel: m\nprompt: 'x {c}'\ntasks: [classify]\n")
    assert gemmaray("run", str(path)).status == 0
    assert launched[0][0] == JobSpec.from_yaml(path)
    assert gemmaray("run", str(path), "--max-error-rate", "0").status == 0
    assert launched[1][0].max_error_rate == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["generate", *PROMPT, "--max-tokens", "0"], "max_tokens"),
        (["generate", *PROMPT, "--max-tokens", "many"], "'--max-tokens'"),
        (["generate", *PROMPT, "--temperature", "nan"], "temperature"),
        (["generate", *PROMPT, "--dtype", "float16"], "float16"),
        (["generate", *PROMPT, "--device", "tpu"], "tpu"),
        (["generate", *PROMPT, "--replicas", "3..1"], "3..1"),
        (["generate", *PROMPT, "--no-such-flag"], "No such option: --no-such-flag"),
        (["generate", *PROMPT, "--jsonl"], "--jsonl"),
        (["generate", *PLACE], "--prompt-column, --messages-column and --prompt; got none"),
        (["generate", *PROMPT, "--prompt", "{a}"], "got --prompt-column and --prompt"),
        (["generate", *PLACE, "--prompt", "no column"], "names no column"),
        (["generate", *PLACE, "--messages-column", "m", "--raw"], "chat template"),
        (["generate", "in", "out", "--prompt-column", "c"], "'--model'"),
        (["generate", "in", "-", "--model", "m"], "INPUT in and OUTPUT -"),
        (["generate", "-", "out", "--model", "m"], "INPUT - and OUTPUT out"),
        (["generate", "-", "--model", "m", "--replicas", "2"], "--replicas is for Parquet"),
        (["score-labels", *PROMPT], "'--labels'"),
        (["score-labels", *PROMPT, "--labels", "one"], "labels"),
        (["tag", *PROMPT, "--chat"], "tag_tokens"),
        (["generate", *PROMPT, "--max-error-rate", "1.5"], "max_error_rate"),
        (["tag", *PROMPT, "--s3-endpoint", "localhost"], "must be a URL such as"),
        (["tag", *PROMPT, "--s3-profile", "p", "--s3-anonymous"], "contradict each other"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "nowhere.yaml", "--max-error-rate", "2"], "--max-error-rate"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(
    gemmaray: Command, launched, arguments: list[str], part: str
) -> None:
    finished = gemmaray(*arguments)
    assert finished.status == 2
    assert finished.out == ""
    assert finished.err.startswith("gemmaray: error: ")
    assert finished.err.count("\n") == 1
    assert part in finished.err
    assert not launched
