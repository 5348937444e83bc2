"""What is not understood is refused by name, in OpenAI's shape, and nothing is quoted."""

import json
import logging
from typing import Any

import httpx
import openai
import pytest

from .conftest import CHAT, SOON, Served

CHATS = "/v1/chat/completions"
CHAT_BODY: dict[str, Any] = {"model": "demo", "messages": CHAT, "max_tokens": 1}
TEXT_BODY: dict[str, Any] = {"model": "demo", "prompt": "x", "max_tokens": 1}
SECRET = "a secret that nobody may see"


def refused(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert SECRET not in reply.text
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": 2}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"timeout": 0}, "timeout"),
        ({"store": True}, "store"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"role": "tool", "content": SECRET}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": SECRET, "x": 1}]}, "messages[0].x"),
    ],
)
def test_fields_out_of_their_range(served: Served, changes: dict[str, Any], param: str) -> None:
    error = refused(served.post(CHATS, {**CHAT_BODY, **changes}))
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize(
    "field", ["tools", "tool_choice", "structured_outputs", "functions", "guided_grammar"]
)
def test_what_openai_has_and_we_have_not_is_said_to_be_unsupported(
    served: Served, field: str
) -> None:
    error = refused(served.post(CHATS, {**CHAT_BODY, field: {"type": "json_object"}}))
    assert error["code"] == "unsupported_field"
    assert error["message"] == f"{field} is not supported here"
    nested = [{"role": "user", "content": "x", "tool_calls": [1]}]
    error = refused(served.post(CHATS, {**CHAT_BODY, "messages": nested}))
    assert error["param"] == "messages[0].tool_calls"


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "assistant", "content": "x"}], "alternate"),
        ([*CHAT, *CHAT], "alternate"),
        ([{"role": "system", "content": "x"}, *CHAT], "System role"),
        ([{"role": "user", "content": "a\0b"}], "NUL"),
    ],
)
def test_conversations_that_the_template_can_not_write(
    served: Served, messages: list[Any], says: str
) -> None:
    for stream in (False, True):
        body = {**CHAT_BODY, "messages": messages, "stream": stream}
        assert says in refused(served.post(CHATS, body))["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": ["x", 3]},
        {"prompt": [1.5]},
        {"prompt": [True]},
        {"prompt": [-1]},
        {"prompt": [10**7]},
        {"prompt": None},
        {"prompt": {"text": SECRET}},
        {"max_tokens": 0},
        {"logprobs": 101},
        {"logprobs": True},
        {"echo": True, "logprobs": 1, "stream": True},
        {"min_tokens": 5},
        {"logit_bias": {"99999999": 1}},
        {"suffix": "x"},
        {"best_of": 2},
        {"prompt": ["x"] * 1025},
        {"prompt": ["x"] * 100, "n": 100},
    ],
)
def test_completions_that_can_not_be(served: Served, changes: dict[str, Any]) -> None:
    refused(served.post("/v1/completions", {**TEXT_BODY, **changes}))


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(served: Served, stream: bool) -> None:
    body = {**TEXT_BODY, "prompt": [5] * 8192, "stream": stream}
    error = refused(served.post("/v1/completions", body))
    assert error["code"] == "context_length_exceeded"
    assert "8192" in error["message"]


def test_a_prompt_that_just_fits(served: Served) -> None:
    body = {**TEXT_BODY, "prompt": [5] * 8191, "max_tokens": 1}
    reply = served.post("/v1/completions", body)
    assert reply.status_code == 200
    assert reply.json()["usage"]["prompt_tokens"] == 8191


def test_a_model_that_is_not_there(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model=SECRET, messages=CHAT)
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
    refused(served.post(CHATS, {**CHAT_BODY, "model": SECRET}), 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"model": "demo", "prompt": "x", "temperature": NaN}',
        b'{"model": "demo", "prompt": "x", "temperature": 1e999}',
        b'{"model": "demo", "prompt": "x", "temperature": -Infinity}',
        b'{"model": "demo", "prompt": "\\ud800"}',
        b'{"model": "demo", "prompt": "a\\u0000b"}',
        b'{"model": "demo", "prompt": ' + b"[" * 100_000,
        b'{"model": "demo", "max_tokens": ' + b"9" * 10_000 + b"}",
    ],
)
def test_bodies_that_are_no_request(served: Served, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    url = f"{served.url}/v1/completions"
    refused(httpx.post(url, content=body, headers=headers, timeout=SOON))


def test_a_body_that_is_no_json_by_its_own_account(served: Served) -> None:
    refused(httpx.post(f"{served.url}/v1/completions", data={"model": "demo"}, timeout=SOON))


@pytest.mark.parametrize("declared", [True, False])
def test_giant_bodies(served: Served, declared: bool) -> None:
    body = json.dumps({**TEXT_BODY, "prompt": "x" * (4 << 20)}).encode()
    content = body if declared else iter([body[:1000], body[1000:]])
    headers = {"content-type": "application/json"}
    url = f"{served.url}/v1/completions"
    refused(httpx.post(url, content=content, headers=headers, timeout=SOON), 413)


def test_routes_and_methods_that_are_not_there(served: Served) -> None:
    refused(served.get("/v1/nothing"), 404)
    refused(served.get(CHATS), 405)


def test_nothing_of_a_prompt_is_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for body in (
        {**CHAT_BODY, "messages": [{"role": "user", "content": SECRET}]},
        {**CHAT_BODY, "messages": [{"role": SECRET, "content": SECRET}]},
        {**CHAT_BODY, SECRET: SECRET},
        {**CHAT_BODY, "model": SECRET},
    ):
        served.post(CHATS, body)
    served.get(f"/v1/{SECRET}")
    ours = [r for r in caplog.records if not r.name.startswith(("httpcore", "httpx", "openai"))]
    assert any(record.name.startswith("cluster.serve") for record in ours)
    assert not any(SECRET in record.getMessage() for record in ours)
