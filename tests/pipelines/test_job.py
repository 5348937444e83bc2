from pathlib import Path

import pytest

from model.errors import ParameterError
from pipelines import JobError, JobSpec
from pipelines.template import Template

from .data import ROOT, spec

DESIGN = """
input: s3://bucket/prompts/*.parquet
output: s3://bucket/answers
model: google/gemma-2-9b-it
prompt: "Summarise this ticket:\\n{body}"
keep: [ticket_id]
tasks:
  - generate: {max_tokens: 256, temperature: 0.7, seed: 1}
  - score_labels: {labels: [billing, outage, other]}
resources: {replicas: 1..8, tensor_parallel: 2}
"""


def test_a_job_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(DESIGN)
    job = JobSpec.from_yaml(path)
    assert job.input == ("s3://bucket/prompts/*.parquet",)
    assert job.keep == ("ticket_id",)
    assert job.tasks.names == ("generate", "score_labels")
    assert job.tasks.generate is not None
    assert job.tasks.generate.temperature == 0.7
    assert job.resources.replica_range == (1, 8)
    assert job.engine_config("x", None, threads=3).tensor_parallel == 2


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_jobs(path: Path) -> None:
    JobSpec.from_yaml(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foo": 1}, "foo"),
        ({"prompt": None}, "give one of prompt, prompt_column and messages, got none"),
        ({"messages": "m"}, "got prompt and messages"),
        ({"prompt": "{a.b!r}"}, "prompt: only {column} can stand in braces"),
        ({"prompt": "{}"}, "only {column}"),
        ({"prompt": "a { b"}, "write {{ and }}"),
        ({"prompt": "no column"}, "names no column"),
        ({"prompt": None, "messages": "m", "chat": "raw"}, "messages need the chat template"),
        ({"tasks": []}, "at least one of generate, score_labels"),
        ({"tasks": ["classify", {"classify": {}}]}, "classify is there twice"),
        ({"tasks": [{"paint": {}}]}, "paint"),
        ({"tasks": [{"generate": {"max_tokens": 0}}]}, "max_tokens"),
        ({"tasks": [{"generate": {"max_toks": 1}}]}, "max_toks"),
        ({"tasks": [{"generate": {"n": 2}}]}, "generate.n must be 1"),
        ({"tasks": [{"generate": {"json_schema": [1]}}]}, "tasks.generate: json_schema: must be a"),
        ({"tasks": [{"generate": {"regex": "a", "choice": ["b"]}}]}, "one of regex and choice"),
        ({"tasks": [{"generate": {}, "embed": {}}]}, "each task is one name"),
        ({"tasks": ["classify", {"score_labels": {"labels": ["a", "b"]}}]}, "choose one"),
        ({"tasks": [{"score_labels": {"labels": ["a"]}}]}, "labels"),
        ({"tasks": [{"score_labels": {"labels": ["a", "a"]}}]}, "'a' more than once"),
        ({"tasks": [{"score_labels": {"labels": ["a", " b"]}}]}, "white space"),
        ({"tasks": ["tag_tokens"], "chat": "chat"}, "plain text"),
        ({"keep": ["a", "a"]}, "keep names a column twice"),
        ({"resources": {"replicas": "8..1"}}, "replicas"),
        ({"resources": {"replicas": 0}}, "replicas"),
        ({"resources": {"dtype": "float16"}}, "dtype"),
        ({"resources": {"max_model_len": 1}}, "max_model_len"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"unit_rows": 0}, "unit_rows"),
        ({"input": []}, "input"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError) as error:
        spec(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- a\n- b", "must hold a map"),
        ("", "must hold a map"),
        ("input: a", "job.yaml: output: Field required"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises((JobError, ParameterError)) as error:
        JobSpec.from_yaml(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_job_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="can't be read"):
        JobSpec.from_yaml(tmp_path / "no.yaml")


def test_a_template_puts_columns_between_its_text() -> None:
    template = Template.parse("{{json}} {name}: {body}, {name}.")
    assert template.columns == ("name", "body")
    assert template.render({"name": "{body}", "body": "b"}) == "{json} {body}: b, {body}."
