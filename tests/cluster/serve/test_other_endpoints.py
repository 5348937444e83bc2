"""Vectors, labels, tags, tokens, models and the service's own routes."""

import openai
import pytest

from model import Engine

from .conftest import CHAT, Served, config

TEXTS = ["libssl-dev - Secure Sockets Layer toolkit", "gnome-chess - simple chess game"]


def test_vectors_are_the_engines(client: openai.OpenAI, offline: Engine) -> None:
    wanted = [list(output.embedding) for output in offline.embed(TEXTS)]
    # OpenAI's client asks for base64 and decodes it.
    reply = client.embeddings.create(model="demo", input=TEXTS)
    assert [item.index for item in reply.data] == [0, 1]
    for item, vector in zip(reply.data, wanted, strict=True):
        assert item.embedding == pytest.approx(vector, rel=1e-6)
    floats = client.embeddings.create(model="demo", input=TEXTS[0], encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(wanted[0], rel=1e-6)
    assert floats.usage.total_tokens == floats.usage.prompt_tokens > 5


def test_vectors_as_they_are_asked_for(served: Served, offline: Engine) -> None:
    (wanted,) = offline.embed([TEXTS[0]], pooling="mean", normalize=False)
    body = {"model": "demo", "input": TEXTS[0], "pooling": "mean", "normalize": False}
    reply = served.post("/v1/embeddings", body).json()
    assert reply["data"][0]["embedding"] == pytest.approx(list(wanted.embedding), rel=1e-6)


def test_labels_of_a_head_are_the_engines(served: Served) -> None:
    with Engine(config("classifier")) as engine:
        wanted = engine.classify([*TEXTS, CHAT])
    reply = served.post("/v1/classify", {"model": "classifier", "input": TEXTS}).json()
    chat = served.post("/v1/classify", {"model": "classifier", "messages": CHAT}).json()
    for item, output in zip(reply["data"] + chat["data"], wanted, strict=True):
        assert item["label"] == output.label
        assert item["score"] == pytest.approx(output.score)
        assert [s["label"] for s in item["scores"]] == [s.label for s in output.scores]
        assert item["logits"] == pytest.approx(list(output.logits))
    assert [item["index"] for item in reply["data"]] == [0, 1]


def test_scores_of_labels_are_the_engines(served: Served, offline: Engine) -> None:
    labels = ["libdevel", "games"]
    body = {"model": "demo", "labels": labels}
    chat = served.post("/v1/score_labels", {**body, "messages": CHAT}).json()["data"][0]
    (wanted,) = offline.score_labels([CHAT], labels)
    assert chat["scores"][0]["score"] == pytest.approx(wanted.scores[0].score)
    assert chat["label"] == wanted.label
    # After plain text a label starts with a space, as in a job.
    text = served.post("/v1/score_labels", {**body, "input": TEXTS[0]}).json()["data"][0]
    (spaced,) = offline.score_labels([TEXTS[0]], [f" {label}" for label in labels])
    assert text["scores"][0]["score"] == pytest.approx(spaced.scores[0].score)
    mean = {**body, "input": TEXTS[0] + "\n", "normalize": "mean"}
    (means,) = offline.score_labels([TEXTS[0] + "\n"], labels, normalize="mean")
    reply = served.post("/v1/score_labels", mean).json()["data"][0]
    assert reply["logits"] == pytest.approx(list(means.logits))


@pytest.mark.parametrize("labels", [["a", "a"], ["a", " b"], ["a"], ["7", "77"]])
def test_labels_that_can_not_be_told_apart_are_refused(served: Served, labels: list[str]) -> None:
    reply = served.post("/v1/score_labels", {"model": "demo", "labels": labels, "input": "x"})
    assert reply.status_code == 400


def test_spans_are_the_engines(served: Served) -> None:
    texts = ["Ask for libssl-dev 1.2", "\N{PILE OF POO} openssl"]
    with Engine(config("tagger")) as engine:
        wanted = engine.tag_tokens(texts)
    reply = served.post("/v1/tag_tokens", {"model": "tagger", "input": texts}).json()
    for text, item, output in zip(texts, reply["data"], wanted, strict=True):
        assert [(e["label"], e["start"], e["end"]) for e in item["entities"]] == [
            (e.label, e.start, e.end) for e in output.entities
        ]
        assert all(text[e["start"] : e["end"]] == e["text"] for e in item["entities"])
        assert tuple(item["token_labels"]) == output.token_labels


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/classify", {"model": "demo", "input": "x"}),
        ("/v1/tag_tokens", {"model": "demo", "input": "x"}),
        ("/v1/score_labels", {"model": "classifier", "input": "x", "labels": ["a", "b"]}),
        ("/v1/completions", {"model": "tagger", "prompt": "x"}),
    ],
)
def test_a_model_without_the_head_says_so(served: Served, path: str, body: dict[str, str]) -> None:
    reply = served.post(path, body)
    assert reply.status_code == 400
    assert "checkpoint" in reply.json()["error"]["message"]


def test_tokens_there_and_back(served: Served, offline: Engine) -> None:
    text = "h\N{LATIN SMALL LETTER E WITH ACUTE} <end_of_turn> \N{PILE OF POO}"
    assert offline.tokenizer is not None
    ids = offline.tokenizer.encode_text(text)
    body = {"model": "demo", "prompt": text, "return_token_strs": True}
    reply = served.post("/tokenize", body).json()
    assert (reply["tokens"], reply["count"]) == (ids, len(ids))
    assert reply["max_model_len"] == offline.max_model_len
    assert reply["token_strs"][0] == "<bos>"
    bare = served.post("/tokenize", {"model": "demo", "prompt": text, "add_special_tokens": False})
    assert bare.json()["tokens"] == ids[1:]
    back = served.post("/detokenize", {"model": "demo", "tokens": ids}).json()
    assert back["prompt"] == f"<bos>{text}"
    chat = served.post("/tokenize", {"model": "demo", "messages": CHAT}).json()
    assert chat["tokens"] == offline.tokenizer.encode_messages(CHAT)
    assert served.post("/detokenize", {"model": "demo", "tokens": []}).json()["prompt"] == ""
    assert served.post("/detokenize", {"model": "demo", "tokens": [10**6]}).status_code == 400


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "classifier", "tagger"]
    card = client.models.retrieve("classifier")
    assert (card.object, card.owned_by) == ("model", "gemmaray")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")


def test_metrics_count_tokens_and_requests(served: Served) -> None:
    def value(name: str) -> float:
        lines = served.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    tokens = 'gemmaray_completion_tokens_total{model="demo"}'
    requests = 'gemmaray_http_requests_total{route="/v1/completions",status="200"}'
    before = value(tokens), value(requests)
    body = {"model": "demo", "prompt": "x", "max_tokens": 5, "ignore_eos": True}
    served.post("/v1/completions", body)
    served.post("/v1/completions", {**body, "stream": True})
    assert (value(tokens), value(requests)) == (before[0] + 10, before[1] + 2)
    served.get("/made/up/by/somebody")
    assert "somebody" not in served.get("/metrics").text


def test_health_and_documents(served: Served) -> None:
    assert served.get("/health").json() == {"status": "ok"}
    assert "<title>" in served.get("/docs").text
    schema = served.get("/openapi.json").json()
    assert "/v1/chat/completions" in schema["paths"]
    for path in schema["paths"].values():
        for operation in path.values():
            assert {"4XX", "5XX"} <= operation["responses"].keys()
            assert "422" not in operation["responses"]
