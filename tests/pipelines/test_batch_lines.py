"""Input lines of OpenAI's Batch API: what they ask for is done, or is an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import JobSpec
from pipelines.batch_lines import batch_columns, batch_fault, job_settings
from pipelines.inputs import read_footers
from pipelines.listing import find_files
from pipelines.plan import Unit
from pipelines.reader import ReadOptions, read_units

from .data import spec

MESSAGES = [{"role": "user", "content": "Wie gëht es?"}]
GENERATE = {"max_tokens": 7, "temperature": 0.5, "seed": 3, "stop": ["END"], "logprobs": 2}


def job(**generate: Any) -> JobSpec:
    return spec(prompt=None, messages="messages", model="org/gemma", tasks=[{"generate": generate}])


def line(**body: Any) -> dict[str, Any]:
    return {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gemma", "messages": MESSAGES, **body},
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "org/gemma"},
        {"max_tokens": 7, "temperature": 0.5, "seed": 3},
        {"max_completion_tokens": 7, "top_p": 1, "n": 1, "stream": False},
        {"stop": "END"},
        {"stop": ["END"], "logprobs": True, "top_logprobs": 2, "logit_bias": {}},
        {"temperature": None, "presence_penalty": 0},
        {"user": "u1", "metadata": {"k": "v"}, "store": True},
    ],
)
def test_what_the_job_does_can_be_asked_for(body: dict[str, Any]) -> None:
    assert batch_fault(line(**body), job_settings(job(**GENERATE))) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (line(model="mma"), 'body.model is "mma"'),
        (line(model=""), 'body.model is ""'),
        (line(model="gpt-4o"), 'body.model is "gpt-4o", and "org/gemma" in the job'),
        (line(temperature=0.7), "body.temperature is 0.7, and 0.5 in the job"),
        (line(temperature=True), "body.temperature is true"),
        (line(seed=4), "body.seed is 4, and 3 in the job"),
        (line(stop=["END", "X"]), "body.stop is"),
        (line(n=2), "body.n is 2, and 1 in the job"),
        (line(stream=True), "body.stream is true"),
        (line(tools=[]), "body.tools is not among the settings of this job"),
        (line(response_format={"type": "json_object"}), 'body.response_format is {"type": "json_'),
        (line(json_object=True), "body.json_object is not among the settings"),
        ({**line(), "url": "/v1/embeddings"}, "the line is no POST to /v1/chat/completions"),
        ({**line(), "method": "GET"}, "the line is no POST"),
        ({**line(), "priority": 1}, "holds 'priority', which is no part of a batch request"),
        ({"custom_id": "a", "body": []}, "the line has no body"),
        ({"custom_id": "a"}, "the line has no body"),
    ],
)
def test_what_it_does_not_do_is_an_error(row: dict[str, Any], message: str) -> None:
    assert message in str(batch_fault(row, job_settings(job(**GENERATE))))


SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
TURNED = {"type": "object", "properties": {"a": {}, "b": {}}}
JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True}}


def schema_format(schema: Any) -> dict[str, Any]:
    return {**JSON_FORMAT, "json_schema": {**JSON_FORMAT["json_schema"], "schema": schema}}


@pytest.mark.parametrize(
    ("generate", "response_format", "same"),
    [
        ({}, {"type": "text"}, True),
        ({}, None, True),
        ({"json_object": True}, {"type": "json_object"}, True),
        ({"json_object": True}, {"type": "text"}, False),
        ({"json_schema": SCHEMA}, schema_format(SCHEMA), True),
        ({"json_schema": SCHEMA}, schema_format(TURNED), False),
        ({"json_schema": SCHEMA}, schema_format([1]), False),
        ({"json_schema": SCHEMA}, JSON_FORMAT, False),
        ({"json_schema": SCHEMA}, {"type": "json_object"}, False),
        ({"json_object": True}, schema_format(SCHEMA), False),
        ({"regex": "a"}, {"type": "text"}, False),
        ({"choice": ["a"]}, {"type": "json_object"}, False),
        ({"json_object": True}, "json_object", False),
        ({"json_object": True}, {"type": "json_schema", "json_schema": 1}, False),
    ],
)
def test_the_form_of_an_answer_is_a_setting_like_others(
    generate: dict[str, Any], response_format: Any, same: bool
) -> None:
    fault = batch_fault(line(response_format=response_format), job_settings(job(**generate)))
    assert (fault is None) == same
    assert same or "body.response_format is" in str(fault)


def test_without_generation_sampling_is_no_setting() -> None:
    labels = [{"score_labels": {"labels": ["a", "b"]}}]
    settings = job_settings(spec(prompt=None, messages="messages", model="gemma", tasks=labels))
    assert batch_fault(line(), settings) is None
    assert "body.max_tokens is not among" in str(batch_fault(line(max_tokens=1), settings))


def test_long_values_are_cut_in_messages() -> None:
    assert len(str(batch_fault(line(seed=10**900), job_settings(job(**GENERATE))))) < 200


def test_columns_of_a_line_are_its_id_and_messages() -> None:
    assert batch_columns(line()) == {"custom_id": "a", "messages": MESSAGES}
    assert batch_columns({"body": 1}) == {"custom_id": None, "messages": None}


def test_a_file_of_requests_is_read_as_such(tmp_path: Path) -> None:
    rows = [line(), line(temperature=9), {"custom_id": 5}, line(messages="text")]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\nnonsense\n")
    (footer,) = read_footers(find_files([str(path)]), None)
    assert (footer.file.format, footer.file.rows) == ("batch", 5)
    assert footer.schema.names == ["custom_id", "messages"]
    unit, options = Unit(0, 0, 5), ReadOptions.of(job())
    (found,) = read_units(footer.file, [unit], None, options)
    # A request that is refused keeps its id, so that whoever sent it can be told.
    assert found.table["custom_id"].to_pylist() == ["a", "a", None, "a", None]
    messages = found.table["messages"].to_pylist()
    assert json.loads(messages[0]) == MESSAGES
    assert messages[3] == '"text"'
    assert sorted(found.faults) == [1, 2, 4]
    assert "body.temperature" in found.faults[1]
    assert found.faults[2] == "the line has no body"
    # Without a job to compare with, as for a proof of what was kept.
    (plain,) = read_units(footer.file, [unit], ["custom_id"])
    assert plain.table["custom_id"].to_pylist() == ["a", "a", None, "a", None]
