"""Adapters over HTTP: each is a model of its own to those who ask."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from actors.endpoint import Endpoint
from cluster.serve import ServeArgs
from cluster.serve.backend import Backend, LocalBackend, with_adapters
from cluster.serve.batches.answering import Lane, adapter_lanes
from model import Engine, SamplingParams

from .batching import Scripted
from .conftest import FOLDERS, Served, Serving, config

ADAPTERS = {name: str(FOLDERS["demo"].parent / "adapters" / name) for name in ("json", "upper")}
QUESTION = "Name the section of this Debian package.\nlibssl-dev: headers of a library"
CHAT = [{"role": "user", "content": QUESTION}]
PARENTS = dict.fromkeys(ADAPTERS, "demo")


@pytest.fixture(scope="module")
def backends() -> Iterator[Mapping[str, Backend]]:
    endpoint = Endpoint(config("demo").model_copy(update={"adapters": ADAPTERS}))
    yield with_adapters({"demo": LocalBackend(endpoint, 64)}, PARENTS)
    endpoint.close()


@pytest.fixture
def served(serving: Serving, backends: Mapping[str, Backend]) -> Served:
    application: Served = serving(backends)
    return application


@pytest.fixture(scope="module")
def wanted() -> dict[str, str]:
    """What an engine says with each adapter, asked directly."""
    names = [None, *ADAPTERS]
    with Engine(config("demo").model_copy(update={"adapters": ADAPTERS})) as engine:
        outputs = engine.generate([CHAT] * 3, SamplingParams(max_tokens=16), adapter=names)
    return {name or "demo": output.text for name, output in zip(names, outputs, strict=True)}


def test_models_are_listed_with_what_they_change(served: Served) -> None:
    listed = served.get("/v1/models").json()["data"]
    assert [(one["id"], one["parent"]) for one in listed] == [
        ("demo", None),
        ("json", "demo"),
        ("upper", "demo"),
    ]
    assert served.get("/v1/models/upper").json()["parent"] == "demo"
    assert [one["id"] for one in served.get("/status").json()["models"]] == ["demo"]


def test_the_model_field_chooses(served: Served, wanted: dict[str, str]) -> None:
    client = served.client()
    asked: dict[str, Any] = {"messages": CHAT, "max_tokens": 16, "temperature": 0}
    assert len(set(wanted.values())) == 3
    for name, text in wanted.items():
        answer = client.chat.completions.create(model=name, **asked)
        assert (answer.model, answer.choices[0].message.content) == (name, text)
        chunks = client.chat.completions.create(model=name, stream=True, **asked)
        told = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(told) == text
    assert json.loads(wanted["json"])["section"].upper() == wanted["upper"]
    with pytest.raises(openai.NotFoundError, match="demo, json, upper"):
        client.chat.completions.create(model="lower", **asked)


def test_other_endpoints_take_them_too(served: Served) -> None:
    vectors = {}
    for name in ("demo", *ADAPTERS):
        body = {"model": name, "input": "lib"}
        (one,) = served.post("/v1/embeddings", body).json()["data"]
        vectors[name] = tuple(one["embedding"])
        ids = served.post("/tokenize", {"model": name, "prompt": "lib"}).json()["tokens"]
        assert ids == served.post("/tokenize", {"model": "demo", "prompt": "lib"}).json()["tokens"]
    assert len(set(vectors.values())) == 3


def test_names_and_folders_are_settings() -> None:
    base = {"model": str(FOLDERS["demo"]), "name": "demo", "anonymous": True}
    text = ",".join(f"{name}={folder}" for name, folder in ADAPTERS.items())
    args = ServeArgs.model_validate({**base, "adapters": text})
    assert args.parents == PARENTS
    assert args.models[0].engine_config().adapters == ADAPTERS
    for adapters, message in (
        ("json", "NAME=FOLDER"),
        ("a=x,a=y", "distinct names"),
        ("demo=x", "two models are called 'demo'"),
    ):
        with pytest.raises(ValidationError, match=message):
            ServeArgs.model_validate({**base, "adapters": adapters})


def test_lines_of_batches_share_the_places_of_the_model() -> None:
    lanes = {"demo": Lane(Scripted(), 3)}
    adapters = adapter_lanes(lanes, PARENTS)
    assert list(adapters) == ["json", "upper"]
    assert all(lane.places is lanes["demo"].places for lane in adapters.values())
    assert sum(lane.most for lane in (*lanes.values(), *adapters.values())) == 3
