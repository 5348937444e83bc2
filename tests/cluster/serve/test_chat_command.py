"""`gemmaray chat --url`: a chat with a server that listens."""

import io
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from actors.calls import Added, Begun, Call, Card, Ended, Event, Failure
from cluster.chat.remote import request_fields
from cluster.serve.access import Keys, add_key
from cluster.serve.errors import busy
from cluster.serve.protocol.chat import ChatRequest
from model import Engine, SamplingParams
from model.outputs import TokenDelta
from model.params import SamplingParams as Params
from tests.cluster.conftest import Command, Finished

from .conftest import Served, Serving
from .page.conftest import Scripted

Chat = Callable[..., Finished]
BYTES = "日本 🐍 né"


@pytest.fixture
def chat(gemmaray: Command, monkeypatch: pytest.MonkeyPatch) -> Chat:
    for name in ("GEMMARAY_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(data: str, *arguments: str) -> Finished:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
        return gemmaray("chat", *arguments, "-q")

    return run


def test_answers_are_those_of_the_engine(served: Served, chat: Chat, offline: Engine) -> None:
    lines = "libfoo1: shared library\nWhy?\n"
    finished = chat(
        lines, "--url", f"{served.url}/v1", "--model", "demo", "--system", "Name the section.",
        "--max-tokens", "9", "--top-k", "40", "--seed", "3", "--temperature", "0.5",
    )  # fmt: skip
    params = SamplingParams(max_tokens=9, top_k=40, seed=3, temperature=0.5)
    messages = [{"role": "user", "content": "Name the section.\n\nlibfoo1: shared library"}]
    first = offline.generate([messages], params)[0].text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
    second = offline.generate([messages], params)[0].text
    assert finished == (0, f"{first}\n{second}\n", "")


def test_characters_of_several_tokens_come_whole(served: Served, chat: Chat) -> None:
    finished = chat("x\n", "--url", f"{served.url}/v1", "--model", "demo", "--choice", BYTES)
    assert finished == (0, f"{BYTES}\n", "")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_tokens": 5, "temperature": 0.3, "top_p": 0.5, "seed": 1, "stop": "x"},
        {"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.5, "ignore_eos": True},
        {"presence_penalty": 1.0, "frequency_penalty": -1.0, "stop": ["a", "b"]},
        {"json_schema": '{"type": "object"}'},
        {"json_object": True},
        {"regex": "[a-z]+"},
        {"choice": ["a", "b"]},
    ],
)
def test_a_server_reads_every_setting_as_it_was_meant(settings: dict[str, object]) -> None:
    body = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "a"}], **request_fields(settings)}
    )
    read = body.sampling(body.limit or 128, None)
    assert read == Params(**settings)


def test_the_only_model_of_a_server_needs_no_name(serving: Serving, chat: Chat) -> None:
    one = serving({"only": Scripted(["he", "llo"])})
    assert chat("x\n", "--url", f"{one.url}/v1").out == "hello\n"
    assert chat("x\n", "--url", f"{one.url}/v1/").out == "hello\n"
    two = serving({"b": Scripted([]), "a": Scripted([])})
    refused = chat("x\n", "--url", f"{two.url}/v1")
    assert refused.status == 2
    assert refused.err.endswith("with --model; it has: a, b\n")


def test_keys_let_in(
    serving: Serving, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = add_key(tmp_path / "keys", "me")
    secret = next(word for word in secret.split() if word.startswith("gr-"))
    locked = serving({"m": Scripted(["in"])}, keys=Keys.read(str(tmp_path / "keys")))
    command = ("x\n", "--url", f"{locked.url}/v1", "--model", "m")
    refused = chat(*command)
    assert refused.status == 1
    assert "answers 401" in refused.err
    assert "GEMMARAY_API_KEY" in refused.err
    (tmp_path / "key").write_text(f"{secret}\n")
    assert chat(*command, "--api-key-file", str(tmp_path / "key")).out == "in\n"
    digests = chat(*command, "--api-key-file", str(tmp_path / "keys"))
    assert (digests.status, digests.out) == (2, "")
    assert "must hold one key" in digests.err
    for name in ("OPENAI_API_KEY", "GEMMARAY_API_KEY"):
        monkeypatch.setenv(name, secret)
        assert chat(*command).out == "in\n"
        monkeypatch.setenv(name, "wrong")


class Faulty(Scripted):
    """Fails in the way that the message names."""

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        (prompt,) = call.prompts
        assert not isinstance(prompt, Sequence)
        word = str(prompt.messages[-1]["content"])  # type: ignore[union-attr]
        if word == "busy":
            raise busy()
        yield [Begun(None)]
        yield [Added(0, TokenDelta(0, (1,), "some ", None), {})]
        if word == "crash":
            raise RuntimeError("of the server")
        if word == "dead":
            yield [Failure("dead", "the engine died")]
        elif word == "long":
            yield [Failure("request", "the prompt is too long", "context_length_exceeded")]
        else:
            yield [Added(0, TokenDelta(0, (1,), "more", None, "stop"), {}), Ended(0, 1)]

    async def describe(self) -> Card:
        return Card("causal_lm", 100, 10, chat=True, loaded=0)


def test_what_goes_wrong_is_one_line_and_the_chat_goes_on(serving: Serving, chat: Chat) -> None:
    server = serving({"m": Faulty([])})
    finished = chat("busy\ndead\ncrash\nlong\nfine\n", "--url", f"{server.url}/v1")
    assert (finished.status, finished.out) == (1, "\n" + "some \n" * 3 + "some more\n")
    told = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    busy_line, dead, crash, long = told
    assert "can't be reached or broke off" in crash
    assert "answers 429: too many requests are waiting" in busy_line
    assert "the engine of this model has died" in dead
    assert long == "error: the prompt is too long; /reset begins a new chat"


def test_a_server_that_is_gone_is_one_line_for_each_message(chat: Chat) -> None:
    finished = chat("a\nb\n", "--url", "http://127.0.0.1:1/v1", "--model", "m")
    assert finished.status == 1
    assert finished.err.count("http://127.0.0.1:1/v1 can't be reached") == 2
    assert finished.err.count("\n") == 2


def test_what_is_no_api_gets_a_hint(served: Served, chat: Chat) -> None:
    finished = chat("a\n", "--url", served.url, "--model", "demo")
    assert finished.status == 1
    assert "answers 40" in finished.err
