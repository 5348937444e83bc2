"""What answers have to be, asked over HTTP: OpenAI's own client, and the engine as the oracle."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from model import Engine, SamplingParams
from tests.model.constrain.hostile import REFUSED

from .conftest import CHAT, Served

CHATS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "section": {"enum": ["libs", "devel", "doc"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["section", "stars"],
    "additionalProperties": False,
}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "package", "schema": SCHEMA}}


class Package(pydantic.BaseModel):
    """What OpenAI's client makes a schema of, and reads the answer into."""

    model_config = pydantic.ConfigDict(extra="forbid")

    section: Literal["libs", "devel", "doc"]
    essential: bool


def test_openais_client_reads_an_answer_into_a_class(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "libssl-dev"}]
    answer = client.chat.completions.parse(
        model="demo", messages=messages, response_format=Package, seed=4, max_tokens=64
    )
    assert isinstance(answer.choices[0].message.parsed, Package)
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("asked", "params"),
    [
        ({"response_format": WRAPPED}, {"json_schema": SCHEMA}),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"response_format": {"type": "text"}}, {}),
        ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
        ({"guided_json": json.dumps(SCHEMA)}, {"json_schema": SCHEMA}),
        ({"guided_regex": "[a-c]{3}-[0-9]{2}"}, {"regex": "[a-c]{3}-[0-9]{2}"}),
        ({"guided_choice": ["libs", "devel", "doc"]}, {"choice": ("libs", "devel", "doc")}),
    ],
)
def test_the_answers_are_those_of_the_engine(
    served: Served, offline: Engine, asked: dict[str, Any], params: dict[str, Any]
) -> None:
    drawn = {"max_tokens": 48, "temperature": 1.2, "seed": 5, "n": 2}
    reply = served.post(CHATS, {"model": "demo", "messages": CHAT, **drawn, **asked}).json()
    (wanted,) = offline.generate([CHAT], SamplingParams(**drawn, **params))
    assert [choice["message"]["content"] for choice in reply["choices"]] == [
        completion.text for completion in wanted.completions
    ]
    prompts = ["libssl-dev: ", "gdb: "]
    body = {"model": "demo", "prompt": prompts, **drawn, **asked}
    reply = served.post(COMPLETIONS, body).json()
    texts = [
        c.text
        for o in offline.generate(prompts, SamplingParams(**drawn, **params))
        for c in o.completions
    ]
    assert [choice["text"] for choice in reply["choices"]] == texts


def test_a_stream_is_held_to_it_too(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "libssl-dev"}]
    stream = client.chat.completions.create(
        model="demo",
        messages=messages,
        stream=True,
        max_tokens=64,
        seed=6,
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}},
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"response_format": WRAPPED, "guided_regex": "a"}, "give one of response_format and"),
        ({"guided_choice": ["a"], "guided_json": {}}, "give one of guided_json and"),
        ({"guided_choice": ["a"], "ignore_eos": True}, "ignore_eos contradicts choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {**WRAPPED, "x": 1}}, "no field"),
        ({"guided_json": '{"type": '}, "guided_json"),
        ({"guided_json": {"x-guidance": {}}}, "x-guidance"),
        ({"guided_json": {"not": {"type": "string"}}}, "not"),
        (
            {"guided_json": {"type": "array", "items": {"$ref": "http://127.0.0.1:9/x"}}},
            "not fetch",
        ),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "(a"}, "regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
    ],
)
def test_what_can_not_be_held_is_refused(
    served: Served, asked: dict[str, Any], says: str, *, stream: bool
) -> None:
    body = {"model": "demo", "messages": CHAT, "max_tokens": 4, "stream": stream, **asked}
    reply = served.post(CHATS, body)
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]


def test_others_go_on_while_a_hostile_schema_is_looked_at(served: Served) -> None:
    hostile = REFUSED["intersected patterns"]["json_schema"]
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(
            served.post, CHATS, {"model": "demo", "messages": CHAT, "guided_json": hostile}
        )
        time.sleep(0.2)
        body = {"model": "demo", "prompt": "x", "seed": 1}
        assert len(served.post(COMPLETIONS, body).json()["choices"]) == 1
        assert not refused.done()
    assert refused.result().status_code == 400
    reply = served.post(COMPLETIONS, {**body, "guided_regex": "[a-z]{3}"})
    assert re.fullmatch("[a-z]{3}", reply.json()["choices"][0]["text"])
