"""What can be asked of heads and hidden states online, of texts longer than the model too."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import openai
import pytest

from actors.endpoint import Endpoint
from cluster.serve.api import make_app
from cluster.serve.backend import LocalBackend
from cluster.serve.settings import Limits
from model import Engine, LongTexts

from .conftest import CHAT, FOLDERS, Served, Serving, config, listening

TEXT = "gnome-chess - " + "tool for libssl-dev " * 6
LENGTH = 24
TRUNCATE = {"long_texts": "truncate"}
STRIDE = {"long_texts": "stride", "stride": 6}


@pytest.fixture(scope="module")
def engines() -> Iterator[Mapping[str, Engine]]:
    """The oracles."""
    made = {name: Engine(short(name)) for name in FOLDERS}
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    """Models of few tokens."""
    endpoints = {name: Endpoint(short(name)) for name in FOLDERS}
    with listening(make_app({n: LocalBackend(e, 64) for n, e in endpoints.items()}, None)) as app:
        yield app
    for endpoint in endpoints.values():
        endpoint.close()


def short(name: str) -> Any:
    return config(name).model_copy(update={"max_model_len": LENGTH})


def data(served: Served, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    reply = served.post(path, body)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["data"]
    return found


def test_tokens_and_entities(small: Served, engines: Mapping[str, Engine]) -> None:
    text = "libssl-dev - headers"
    body = {"model": "tagger", "input": text}
    for strategy in ("first", "average", "max", "simple", "none"):
        (output,) = engines["tagger"].tag_tokens([text], aggregation=strategy)  # type: ignore[arg-type]
        (tagging,) = data(small, "/v1/tag_tokens", {**body, "aggregation_strategy": strategy})
        assert [e["text"] for e in tagging["entities"]] == [e.text for e in output.entities]
        assert [e.get("index") for e in tagging["entities"]] == [e.index for e in output.entities]
    everything = {**body, "aggregation_strategy": "none", "ignore_labels": []}
    (tagging,) = data(small, "/v1/tag_tokens", everything)
    assert "".join(token["text"] for token in tagging["entities"]) == text
    assert not {"truncated", "windows"} & tagging.keys()


def test_functions_and_the_best_labels(small: Served, engines: Mapping[str, Engine]) -> None:
    (output,) = engines["classifier"].classify(["libssl-dev"], function_to_apply="sigmoid")
    asked = {"function_to_apply": "sigmoid", "top_k": 2}
    body = {"model": "classifier", "input": "libssl-dev", **asked}
    (found,) = data(small, "/v1/classify", body)
    assert [s["label"] for s in found["scores"]] == [s.label for s in output.best(2)]
    assert found["score"] == pytest.approx(output.score, rel=1e-5)
    assert len(found["logits"]) == len(output.scores)


def test_long_texts_of_each_kind(small: Served, engines: Mapping[str, Engine]) -> None:
    stride = LongTexts("stride", 6)
    (tags,) = engines["tagger"].tag_tokens([TEXT], long_texts=stride)
    reply = small.post("/v1/tag_tokens", {"model": "tagger", "input": TEXT, **STRIDE}).json()
    (tagging,) = reply["data"]
    assert tagging["windows"] > 1
    assert [e["start"] for e in tagging["entities"]] == [e.start for e in tags.entities]
    assert reply["usage"]["prompt_tokens"] == len(tagging["token_labels"]) == tags.prompt_tokens

    (label,) = engines["classifier"].classify([TEXT], long_texts=stride)
    (found,) = data(small, "/v1/classify", {"model": "classifier", "input": TEXT, **STRIDE})
    assert found["logits"] == pytest.approx(list(label.logits), rel=1e-5)

    (vector,) = engines["demo"].embed([TEXT], pooling="mean", long_texts=stride)
    body = {"model": "demo", "input": TEXT, "pooling": "mean", **STRIDE}
    (item,) = data(small, "/v1/embeddings", body)
    assert item["embedding"] == pytest.approx(list(vector.embedding), rel=1e-5)
    assert item["windows"] > 1


def test_texts_that_are_cut_say_so(small: Served) -> None:
    texts = [TEXT, "libssl"]
    body = {"model": "tagger", "input": texts, **TRUNCATE}
    long, fits = data(small, "/v1/tag_tokens", body)
    assert (long["truncated"], len(long["token_labels"])) == (True, LENGTH)
    assert fits["truncated"] is False
    long_chat = [{"role": "user", "content": TEXT * 3}]
    for messages, cut in ((CHAT, False), (long_chat, True)):
        body = {"model": "classifier", "messages": messages, **TRUNCATE}
        assert data(small, "/v1/classify", body)[0]["truncated"] is cut
    (item,) = data(
        small, "/v1/embeddings", {"model": "demo", "input": [[2, *[300] * 99]]} | TRUNCATE
    )
    assert item["truncated"] is True


def test_hidden_states(small: Served, engines: Mapping[str, Engine]) -> None:
    text = "libssl-dev"
    for layer in (0, 2, -1):
        (output,) = engines["demo"].hidden_states([text], layer=layer)
        body = {"model": "demo", "input": text, "pooling": "none", "layer": layer}
        (item,) = data(small, "/v1/embeddings", body)
        np.testing.assert_allclose(item["embedding"], output.hidden_states, rtol=1e-5)
        (item,) = data(small, "/v1/embeddings", {**body, "encoding_format": "base64"})
        flat = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        np.testing.assert_allclose(flat.reshape(output.hidden_states.shape), output.hidden_states)
        (vector,) = engines["demo"].embed([text], pooling="cls", layer=layer)
        (item,) = data(small, "/v1/embeddings", {**body, "pooling": "cls"})
        assert item["embedding"] == pytest.approx(list(vector.embedding), rel=1e-4, abs=1e-6)


def test_openais_client_may_ask_for_it(small: Served, engines: Mapping[str, Engine]) -> None:
    extras = {"pooling": "mean", "layer": 1, **STRIDE}
    reply = small.client().embeddings.create(model="demo", input=TEXT, extra_body=extras)
    (vector,) = engines["demo"].embed(
        [TEXT], pooling="mean", layer=1, long_texts=LongTexts("stride", 6)
    )
    assert reply.data[0].embedding == pytest.approx(list(vector.embedding), rel=1e-5)
    assert isinstance(reply, openai.types.CreateEmbeddingResponse)


def test_windows_count_as_inputs(serving: Serving) -> None:
    endpoint = Endpoint(short("demo"))
    try:
        limits = Limits(max_prompts=4)
        served = serving({"demo": LocalBackend(endpoint, 64)}, limits=limits)
        body = {"model": "demo", "input": [TEXT, TEXT], **STRIDE}
        assert served.post("/v1/embeddings", body).status_code == 200
        reply = served.post("/v1/embeddings", {**body, "stride": 20})
        assert reply.status_code == 400
        assert "more than 4 windows" in reply.json()["error"]["message"]
    finally:
        endpoint.close()


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("embeddings", {"model": "demo", "layer": 9, "input": "x"}, "numbered 0"),
        ("embeddings", {"model": "demo", "pooling": "max"}, "pooling"),
        ("embeddings", {"model": "demo"}, "shorten it"),
        ("tag_tokens", {"model": "tagger", "long_texts": "stride"}, "needs stride"),
        ("tag_tokens", {"model": "tagger", **STRIDE, "stride": 23}, "less than 23"),
        ("tag_tokens", {"model": "tagger", "aggregation_strategy": "last"}, "aggregation"),
        ("classify", {"model": "classifier", "stride": 3}, "goes with long_texts"),
        ("classify", {"model": "classifier", "top_k": 0}, "top_k"),
        ("score_labels", {"model": "demo", "labels": ["a", "b"], **TRUNCATE}, "long_texts"),
    ],
)
def test_what_can_not_be_had_is_said(
    small: Served, path: str, body: dict[str, Any], part: str
) -> None:
    reply = small.post(f"/v1/{path}", {"input": TEXT, **body})
    assert reply.status_code == 400
    assert part in reply.json()["error"]["message"] + str(reply.json()["error"]["param"])
