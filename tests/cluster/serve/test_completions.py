"""/v1/completions, beside the engine asked directly."""

import math
from typing import Any

import openai
import pytest

from model import Engine, SamplingParams

from .conftest import Served

PROMPT = "libssl-dev - Secure Sockets Layer toolkit"
FREE: dict[str, Any] = {"max_tokens": 9, "temperature": 1.0, "seed": 4}
FORCED = {"ignore_eos": True}


def tokens(offline: Engine, text: str) -> list[int]:
    assert offline.tokenizer is not None
    return offline.tokenizer.encode_text(text)


def test_texts_and_token_ids_are_the_same_prompts(client: openai.OpenAI, offline: Engine) -> None:
    other = "a b c"
    ids = [tokens(offline, PROMPT), tokens(offline, other)]
    wanted = [output.text for output in offline.generate(ids, SamplingParams(**FREE, **FORCED))]
    for prompt, texts in (
        (PROMPT, wanted[:1]),
        (ids[0], wanted[:1]),
        ([PROMPT, other], wanted),
        (ids, wanted),
    ):
        reply = client.completions.create(model="demo", prompt=prompt, **FREE, extra_body=FORCED)
        assert [choice.text for choice in reply.choices] == texts
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == sum(map(len, ids[: len(texts)]))
        assert reply.usage.completion_tokens == 9 * len(texts)


def test_choices_of_many_prompts_are_counted_through(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "prompt": [PROMPT, "x"], "n": 2, **FREE}
    asked["extra_body"] = FORCED
    whole = client.completions.create(**asked, echo=True)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith(PROMPT) for choice in whole.choices] == [
        True,
        True,
        False,
        False,
    ]
    chunks = list(
        client.completions.create(
            **asked, echo=True, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage == whole.usage
    for index in range(4):
        mine = [c for chunk in chunks for c in chunk.choices if c.index == index]
        assert "".join(choice.text for choice in mine) == whole.choices[index].text
        assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + ["length"]


def test_log_probabilities_are_the_engines(client: openai.OpenAI, offline: Engine) -> None:
    asked: dict[str, Any] = {"model": "demo", "prompt": PROMPT, **FREE, "extra_body": FORCED}
    choice = client.completions.create(**asked, logprobs=2).choices[0]
    wanted = offline.generate([PROMPT], SamplingParams(**FREE, **FORCED, logprobs=2))[0]
    told = choice.logprobs
    assert told is not None
    assert told.token_logprobs == [token.logprob for token in wanted.logprobs or ()]
    assert [sorted(top.values()) for top in told.top_logprobs or []] == [
        sorted(p for _, p in token.top) for token in wanted.logprobs or ()
    ]
    for token, offset in zip(told.tokens or [], told.text_offset or [], strict=True):
        assert token.startswith("<") or choice.text[offset:].startswith(token)
    parts = [
        part.logprobs
        for chunk in client.completions.create(**asked, logprobs=2, stream=True)
        for part in chunk.choices
        if part.logprobs
    ]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [item for part in parts for item in getattr(part, name)] == getattr(told, name)


def test_a_prompt_is_scored_as_lm_eval_asks_for_it(client: openai.OpenAI, offline: Engine) -> None:
    """Its sums over the continuation's tokens, and whether they are the likeliest ones."""
    context, rest = (
        tokens(offline, PROMPT),
        offline.generate([PROMPT], SamplingParams(max_tokens=4)),
    )
    greedy = list(rest[0].token_ids)
    (scores,) = offline.logprobs([context + greedy])
    asked: dict[str, Any] = {"model": "demo", "prompt": [context + greedy], "temperature": 0}
    reply = client.completions.create(**asked, max_tokens=1, logprobs=1, seed=1, echo=True)
    told = reply.choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    start, end = len(context), -1
    assert sum((told.token_logprobs or [])[start:end]) == pytest.approx(
        math.fsum(p for p in scores.logprobs[start:] if p is not None), abs=1e-4
    )
    tops = (told.top_logprobs or [])[start:end]
    for token, top in zip(told.tokens[start:end], tops, strict=True):
        assert token == max(top, key=lambda text: top[text])
    assert (told.token_logprobs or [])[0] is None
    alone = client.completions.create(**asked, max_tokens=0, logprobs=1, echo=True).choices[0]
    assert alone.logprobs is not None
    assert alone.logprobs.token_logprobs == (told.token_logprobs or [])[:end]
    assert alone.finish_reason == "length"


def test_places_in_an_echoed_text_count_no_control_tokens(client: openai.OpenAI) -> None:
    choice = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=0, echo=True, logprobs=0
    ).choices[0]
    assert choice.text == PROMPT
    assert choice.logprobs is not None
    assert choice.logprobs.top_logprobs is None
    assert (choice.logprobs.tokens or [])[0] == "<bos>"
    pairs = zip(choice.logprobs.tokens or [], choice.logprobs.text_offset or [], strict=True)
    for token, offset in list(pairs)[1:]:
        assert PROMPT[offset:].startswith(token)


def test_an_echo_of_token_ids_is_their_text(client: openai.OpenAI, offline: Engine) -> None:
    ids = tokens(offline, "h\N{LATIN SMALL LETTER E WITH ACUTE} \N{PILE OF POO}")
    reply = client.completions.create(model="demo", prompt=ids, max_tokens=0, echo=True)
    assert reply.choices[0].text == "h\N{LATIN SMALL LETTER E WITH ACUTE} \N{PILE OF POO}"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(ids), 0)


def test_an_empty_prompt_is_bos_alone(served: Served) -> None:
    body = {"model": "demo", "prompt": "", "max_tokens": 1}
    assert served.post("/v1/completions", body).json()["usage"]["prompt_tokens"] == 1
    reply = served.post("/v1/completions", {**body, "add_special_tokens": False})
    assert reply.status_code == 400
    plain = served.post("/v1/completions", {**body, "prompt": "x", "add_special_tokens": False})
    assert plain.json()["usage"]["prompt_tokens"] == 1


def test_sixteen_tokens_are_the_default(served: Served) -> None:
    body = {"model": "demo", "prompt": "x", **FORCED}
    assert served.post("/v1/completions", body).json()["usage"]["completion_tokens"] == 16
