"""OpenAI's client runs batches; the same requests online are the oracle."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import openai
import pytest

from actors.endpoint import Endpoint
from cluster.serve.api import make_app
from cluster.serve.backend import Backend, LocalBackend

from .batching import (
    CHATS,
    COMPLETIONS,
    EMBEDDINGS,
    a_worker,
    at_work,
    batches_on,
    created,
    finished,
    line,
    results,
    shelf_at,
)
from .conftest import CHAT, listening


@pytest.fixture(scope="module")
def client(
    endpoints: Mapping[str, Endpoint], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    """The demo models, with batches."""
    backends: dict[str, Backend] = {
        name: LocalBackend(endpoint, 64) for name, endpoint in endpoints.items()
    }
    shelf = shelf_at(tmp_path_factory.mktemp("shelf"))
    worker = a_worker(shelf, backends)
    app = make_app(backends, None, batches=batches_on(shelf, worker=worker))
    with at_work(worker), listening(app) as served:
        yield served.client()


def same(client: openai.OpenAI, url: str, asked: dict[str, Any], answer: Any) -> bool:
    """Whether an answer is what the online route says, but for its id and time."""
    online = httpx.post(f"{client.base_url}{url.removeprefix('/v1/')}", json=asked).json()
    said = answer["response"]["body"]
    return {**said, "id": "", "created": 0} == {**online, "id": "", "created": 0}


def test_chats_are_answered_as_online(client: openai.OpenAI) -> None:
    asked: list[dict[str, Any]] = [
        {"seed": 1, "max_tokens": 9},
        {"seed": 2, "max_tokens": 5, "n": 2, "temperature": 0.7, "logit_bias": {"108": -100}},
        {"seed": 3, "max_tokens": 4, "logprobs": True, "top_logprobs": 2, "stop": ["e"]},
        {"temperature": 0, "max_tokens": 3},
    ]
    asked = [{"model": "demo", "messages": CHAT, **body} for body in asked]
    lines = [line(f"request-{n}", CHATS, **body) for n, body in enumerate(asked)]
    batch = created(client, lines, CHATS, metadata={"for": "tests"})
    assert batch.status == "validating"
    batch = finished(client, batch.id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 4, "failed": 0}
    assert batch.metadata == {"for": "tests"}
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert list(times) == sorted(times)
    answers, _ = results(client, batch)
    assert [answer["custom_id"] for answer in answers] == [f"request-{n}" for n in range(4)]
    for answer, body in zip(answers, asked, strict=True):
        assert answer["response"]["status_code"] == 200
        assert answer["error"] is None
        assert same(client, CHATS, body, answer), body
    assert len({answer["response"]["request_id"] for answer in answers}) == 4


def test_completions_are_answered_as_online(client: openai.OpenAI) -> None:
    asked: list[dict[str, Any]] = [
        {"prompt": "lib", "seed": 1},
        {"prompt": ["lib", "gnome"], "seed": 2, "n": 2, "max_tokens": 4},
        {"prompt": [2, 500, 600], "temperature": 0, "max_tokens": 3},
        {"prompt": "lib", "echo": True, "logprobs": 2, "max_tokens": 0},
        {"prompt": "lib", "echo": True, "logprobs": 0, "max_tokens": 2, "seed": 4},
    ]
    asked = [{"model": "demo", **body} for body in asked]
    batch = created(client, [line(f"{n}", **body) for n, body in enumerate(asked)])
    answers, errors = results(client, finished(client, batch.id))
    assert not errors
    for answer, body in zip(answers, asked, strict=True):
        assert same(client, COMPLETIONS, body, answer), body


def test_embeddings_are_those_of_the_online_route(client: openai.OpenAI) -> None:
    texts = ["libssl-dev", "gnome-shell"]
    batch = created(
        client,
        [
            line("floats", EMBEDDINGS, model="demo", input=texts),
            line("text", EMBEDDINGS, model="demo", input=texts, encoding_format="base64"),
        ],
        EMBEDDINGS,
    )
    answers, _ = results(client, finished(client, batch.id))
    floats, text = (answer["response"]["body"]["data"] for answer in answers)
    online = client.embeddings.create(model="demo", input=texts, encoding_format="float").data
    assert [item["embedding"] for item in floats] == [item.embedding for item in online]
    assert len(base64.b64decode(text[0]["embedding"])) == 4 * len(floats[0]["embedding"])


def test_what_is_refused_online_is_an_error_of_its_line(client: openai.OpenAI) -> None:
    """In words and status: each line's error is the body that the online route answers."""
    good = {"model": "demo", "messages": CHAT, "max_tokens": 1}
    asked: dict[str, dict[str, Any]] = {
        "good": good,
        "unknown field": {**good, "colour": 1},
        "unsupported": {**good, "tools": [{}]},
        "out of range": {**good, "temperature": -1},
        "contradiction": {**good, "min_tokens": 5},
        "no such model": {**good, "model": "gpt-5"},
        "no messages": {"model": "demo"},
        "no head": {**good, "model": "classifier"},
        "too long": {**good, "messages": [{"role": "user", "content": "long " * 20000}]},
        "too many": {**good, "n": 128},
        "a system message": {**good, "messages": [{"role": "system", "content": "x"}, *CHAT]},
        "half a character": {**good, "messages": [{"role": "user", "content": "\ud800"}]},
    }
    lines = [line(name, CHATS, **body) for name, body in asked.items()]
    batch = finished(client, created(client, lines, CHATS).id)
    assert batch.status == "completed"
    assert batch.request_counts.total == len(lines)
    answers, errors = results(client, batch)
    fine = {"good", "too many"}
    assert {answer["custom_id"] for answer in answers} == fine
    assert [error["custom_id"] for error in errors] == [name for name in asked if name not in fine]
    for error in errors:
        online = httpx.post(
            f"{client.base_url}chat/completions",
            content=json.dumps(asked[error["custom_id"]]),
            headers={"content-type": "application/json"},
        )
        assert error["response"]["status_code"] == online.status_code, error
        assert error["response"]["body"] == online.json()
        assert error["error"] is None


def test_a_batch_has_no_streams(client: openai.OpenAI) -> None:
    batch = created(client, [line("a", model="demo", prompt="x", stream=True)])
    _, (error,) = results(client, finished(client, batch.id))
    assert error["response"]["body"]["error"]["param"] == "stream"


def test_draws_without_a_seed_differ_from_line_to_line(client: openai.OpenAI) -> None:
    lines = [line(f"{n}", model="demo", prompt="lib", max_tokens=12) for n in range(4)]
    answers, _ = results(client, finished(client, created(client, lines).id))
    texts = {answer["response"]["body"]["choices"][0]["text"] for answer in answers}
    assert len(texts) > 1


def test_a_file_that_is_no_batch_fails_it_before_anything_is_computed(
    client: openai.OpenAI,
) -> None:
    lines = [line("a", model="demo", prompt="x"), line("a", CHATS, model="demo")]
    batch = finished(client, created(client, lines).id)
    assert batch.status == "failed"
    assert batch.failed_at
    assert (batch.output_file_id, batch.error_file_id, batch.in_progress_at) == (None, None, None)
    found = [(error.code, error.line) for error in batch.errors.data]
    assert found == [("duplicate_custom_id", 2), ("mismatched_url", 2)]


def test_files_are_kept_listed_and_forgotten(client: openai.OpenAI) -> None:
    before = {file.id for file in client.files.list()}
    made = [
        client.files.create(file=(f"{n}.jsonl", b"x" * n), purpose="batch") for n in range(1, 4)
    ]
    assert [file.bytes for file in made] == [1, 2, 3]
    assert client.files.retrieve(made[0].id) == made[0]
    assert client.files.content(made[2].id).content == b"xxx"
    listed = [file for file in client.files.list(purpose="batch", limit=2) if file.id not in before]
    assert listed == made[::-1]
    assert [f.id for f in client.files.list(order="asc") if f.id not in before] == [
        file.id for file in made
    ]
    assert client.files.delete(made[1].id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made[1].id)


def test_batches_are_listed_the_latest_first(client: openai.OpenAI) -> None:
    lines = [line("a", model="demo", prompt="x", max_tokens=1)]
    made = [finished(client, created(client, lines).id).id for _ in range(3)]
    page = client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:0:-1]
    assert page.has_more
    assert [batch.id for batch in client.batches.list(limit=2)][:3] == made[::-1]
