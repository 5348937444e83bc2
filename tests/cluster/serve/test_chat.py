"""/v1/chat/completions, through OpenAI's own client, beside the engine asked directly."""

from typing import Any

import openai
import pytest

from model import Engine, SamplingParams
from model.tokenizer import load_tokenizer

from .conftest import CHAT, FOLDERS, Served

FREE: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 7, "n": 3}
FORCED = {"ignore_eos": True}
CONTROLS = {"<eos>", "<end_of_turn>"}


def test_an_answer_is_the_engines_own(client: openai.OpenAI, offline: Engine) -> None:
    reply = client.chat.completions.create(
        model="demo", messages=CHAT, **FREE, logprobs=True, top_logprobs=3, extra_body=FORCED
    )
    wanted = offline.generate([CHAT], SamplingParams(**FREE, **FORCED, logprobs=3))[0]
    assert [choice.message.content for choice in reply.choices] == [
        completion.text for completion in wanted.completions
    ]
    assert reply.object == "chat.completion"
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {choice.message.role for choice in reply.choices} == {"assistant"}
    assert {choice.finish_reason for choice in reply.choices} == {"length"}
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == wanted.prompt_tokens
    assert reply.usage.completion_tokens == 36
    assert reply.usage.total_tokens == wanted.prompt_tokens + 36
    for choice, completion in zip(reply.choices, wanted.completions, strict=True):
        assert choice.logprobs is not None
        assert completion.logprobs is not None
        content = choice.logprobs.content or []
        assert [token.logprob for token in content] == [t.logprob for t in completion.logprobs]
        shown = [token for token in content if token.token not in CONTROLS]
        assert b"".join(bytes(token.bytes or []) for token in shown).decode() == completion.text
        for token, known in zip(content, completion.logprobs, strict=True):
            assert [top.logprob for top in token.top_logprobs] == [p for _, p in known.top]


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": CHAT, **FREE, "extra_body": FORCED}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    chunks = list(
        client.chat.completions.create(
            **asked,
            logprobs=True,
            top_logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *chunks, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.model_dump() == whole.usage.model_dump()
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    for index in range(3):
        mine = [c for chunk in chunks for c in chunk.choices if c.index == index]
        assert [choice.delta.role for choice in mine] == ["assistant"] + [None] * (len(mine) - 1)
        text = "".join(choice.delta.content or "" for choice in mine)
        assert text == whole.choices[index].message.content
        assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + ["length"]
        told = [t for choice in mine if choice.logprobs for t in choice.logprobs.content or []]
        wanted = whole.choices[index].logprobs
        assert wanted is not None
        assert told == wanted.content


def test_without_being_asked_a_stream_counts_nothing(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model="demo", messages=CHAT, max_tokens=2, stream=True)
    )
    assert all(chunk.choices for chunk in chunks)


def test_characters_that_are_split_over_tokens_come_whole(
    client: openai.OpenAI, served: Served
) -> None:
    tokenizer = load_tokenizer(FOLDERS["demo"])
    assert tokenizer is not None
    euro = tokenizer.encode_continuation("\N{EURO SIGN}")
    assert len(euro) == 3, "the demo model spells it in bytes"
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": CHAT,
        "max_tokens": 40,
        "seed": 11,
        "temperature": 2.0,
        "logit_bias": {str(token): 24 for token in euro},
        "extra_body": FORCED,
    }
    whole = client.chat.completions.create(**asked, logprobs=True).choices[0]
    assert "\N{REPLACEMENT CHARACTER}" in (whole.message.content or ""), "bytes were drawn"
    assert whole.logprobs is not None
    assert any(t.token.startswith("bytes:\\x") for t in whole.logprobs.content or [])
    chunks = client.chat.completions.create(**asked, stream=True)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.message.content


def test_a_stop_string_is_cut_off_also_in_a_stream(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": CHAT, "seed": 5, "max_tokens": 40}
    free = client.chat.completions.create(**asked, extra_body=FORCED).choices[0].message.content
    assert free
    stop = free[len(free) // 2 :][:4]
    wanted = free[: free.index(stop)]
    reply = client.chat.completions.create(**asked, stop=[stop, "\0 never"], extra_body=FORCED)
    assert reply.choices[0].message.content == wanted
    assert reply.choices[0].finish_reason == "stop"
    chunks = client.chat.completions.create(**asked, stop=stop, stream=True, extra_body=FORCED)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == wanted
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.5),
        ("top_p", 0.4),
        ("top_k", 3),
        ("min_p", 0.3),
        ("repetition_penalty", 1.9),
        ("presence_penalty", 1.5),
        ("frequency_penalty", 1.5),
        ("min_tokens", 20),
        ("stop_token_ids", [106, 500, 560]),
        ("logit_bias", {"560": 30.0}),
        ("seed", 8),
    ],
)
def test_every_setting_reaches_the_engine(
    served: Served, offline: Engine, field: str, value: Any
) -> None:
    asked = {"max_tokens": 24, "temperature": 1.3, "seed": 9, field: value}
    reply = served.post("/v1/chat/completions", {"model": "demo", "messages": CHAT, **asked})
    bias = {"logit_bias": {560: 30.0}} if field == "logit_bias" else {}
    wanted = offline.generate([CHAT], SamplingParams(**{**asked, **bias}))[0]
    choice = reply.json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (
        wanted.text,
        wanted.finish_reason,
    )


def test_what_is_null_is_openais_default(served: Served, offline: Engine) -> None:
    nulls = dict.fromkeys(
        [
            "temperature",
            "top_p",
            "n",
            "stop",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "max_completion_tokens",
            "stream",
            "stream_options",
            "user",
            "tools",
            "response_format",
            "top_k",
            "min_p",
            "timeout",
            "metadata",
            "store",
        ]
    )
    body = {"model": "demo", "messages": CHAT, "seed": 3, "max_tokens": 9, **nulls}
    reply = served.post("/v1/chat/completions", body).json()
    wanted = offline.generate([CHAT], SamplingParams(max_tokens=9, temperature=1.0, seed=3))[0]
    assert reply["choices"][0]["message"]["content"] == wanted.text


def test_an_answer_may_be_as_long_as_the_model_takes(served: Served, offline: Engine) -> None:
    body = {"model": "demo", "messages": CHAT, "temperature": 0}
    reply = served.post("/v1/chat/completions", body).json()
    wanted = offline.generate([CHAT], SamplingParams(max_tokens=8000))[0]
    assert reply["choices"][0]["message"]["content"] == wanted.text
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_the_last_message_is_carried_on_with_if_that_is_asked(
    served: Served, offline: Engine
) -> None:
    messages = [*CHAT, {"role": "assistant", "content": "lib"}]
    body = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 6}
    tokenizer = offline.tokenizer
    assert tokenizer is not None
    for continues in (False, True):
        ids = tokenizer.encode_messages(messages, continue_final=continues)
        wanted = offline.generate([ids], SamplingParams(max_tokens=6))[0]
        reply = served.post(
            "/v1/chat/completions", {**body, "continue_final_message": continues}
        ).json()
        assert reply["usage"]["prompt_tokens"] == len(ids)
        assert reply["choices"][0]["message"]["content"] == wanted.text


def test_parts_and_what_lm_eval_sends_are_text(served: Served) -> None:
    plain = {"model": "demo", "messages": CHAT, "temperature": 0, "max_tokens": 4}
    text = CHAT[0]["content"]
    for message in (
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "user", "content": text, "type": "text"},
        {"role": "user", "content": text, "name": None, "tool_calls": None},
    ):
        reply = served.post("/v1/chat/completions", {**plain, "messages": [message]}).json()
        expected = served.post("/v1/chat/completions", plain).json()
        assert reply["choices"] == expected["choices"]
        assert reply["usage"] == expected["usage"]
