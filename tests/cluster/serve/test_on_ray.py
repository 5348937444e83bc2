"""The whole application on Ray Serve: front door, engines, and what passes between them."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import psutil
import pytest
from ray import serve

from cluster.serve import ServeArgs, build_app
from model import Engine, SamplingParams

from .conftest import FOLDERS, SOON, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

APP = "test-serving"
ENDLESS: dict[str, Any] = {"model": "demo", "prompt": "x", "max_tokens": 8000, "ignore_eos": True}
SHARE = {"cpus": 0.5, "kv_cache_bytes": 64 << 20, "threads": 1}


def arguments(**changes: Any) -> ServeArgs:
    demo = {"model": str(FOLDERS["demo"]), "name": "demo", "max_ongoing": 2, "max_queued": 2}
    upper = str(FOLDERS["demo"].parent / "adapters" / "upper")
    demo = {**demo, **SHARE, "adapters": {"upper": upper}, **changes}
    other = {"model": str(FOLDERS["classifier"]), **SHARE}
    limits = {"timeout_s": 30}
    return ServeArgs.model_validate({"models": [demo, other], "anonymous": True, "limits": limits})


@pytest.fixture(scope="module")
def url(ray_cluster: None) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_app(arguments()), name=APP, route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.delete(APP)
    serve.shutdown()


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60)


def test_models_answer_by_their_names(url: str, offline: Engine) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["demo", "classifier", "upper"]
    asked: dict[str, Any] = {"model": "demo", "prompt": "lib", "max_tokens": 9, "seed": 1}
    wanted = offline.generate(["lib"], SamplingParams(max_tokens=9, temperature=1.0, seed=1))[0]
    assert client.completions.create(**asked).choices[0].text == wanted.text
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == wanted.text
    adapted = client.completions.create(**{**asked, "model": "upper"})
    assert adapted.choices[0].text != wanted.text
    labels = httpx.post(f"{url}/v1/classify", json={"model": "classifier", "input": "x"})
    assert labels.json()["data"][0]["label"]
    for model, status in (("classifier", 400), ("none", 404)):
        assert post(url, model=model, prompt="x").status_code == status


def test_the_state_of_models_is_told(url: str) -> None:
    found: dict[str, Any] = {}

    def known() -> bool:
        found.update({model["id"]: model for model in httpx.get(f"{url}/status").json()["models"]})
        return all(model["engines"] and model["replicas"] for model in found.values())

    until(known)
    assert {name: model["architecture"] for name, model in found.items()} == {
        "demo": "causal_lm",
        "classifier": "sequence_classification",
    }
    for model in found.values():
        assert (model["replicas"], model["in_flight"]) == ({"running": 1}, 0)
        (engine,) = model["engines"]
        assert engine["replica"] != "local"
        assert (engine["running"], engine["waiting"]) == (0, 0)
    assert found["demo"]["engines"][0]["output_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_free_their_places(url: str, stream: bool) -> None:
    data = json.dumps({**ENDLESS, "stream": stream}).encode()

    def leave() -> None:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n" % len(data) + data
            )
            time.sleep(0.7)

    with ThreadPoolExecutor(4) as pool:  # two of them only ever wait
        list(pool.map(lambda _: leave(), range(4)))
    left = time.monotonic()
    assert post(url, model="demo", prompt="x", max_tokens=1).status_code == 200
    assert time.monotonic() - left < 1.0


def test_what_does_not_fit_into_the_queue_is_refused(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        body = {**ENDLESS, "max_tokens": 400}
        replies = list(pool.map(lambda n: post(url, **body, stream=n % 2 == 0), range(8)))
    counts = Counter(reply.status_code for reply in replies)
    assert counts.keys() == {200, 429}
    # Serve counts a request as queued until it has found it a replica, so that of eight at the
    # same moment no more than the queue's two are sure to get in.
    assert counts[200] >= 2
    assert {reply.headers.get("retry-after") for reply in replies} == {None, "1"}


def test_a_replica_that_dies_is_replaced(url: str) -> None:
    """Who waited for it is told to try again, and OpenAI's client does so by itself."""
    (replica,) = [p for p in psutil.process_iter() if f"{APP}:demo" in " ".join(_title(p))]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, url, **ENDLESS)
        time.sleep(0.7)
        replica.kill()
        reply = waiting.result()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert reply.json()["error"]["code"] == "engine_unavailable"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=5, timeout=60)
    assert client.completions.create(model="demo", prompt="x", max_tokens=1).choices


def _title(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def asking(url: str) -> Iterator[Counter[str]]:
    """Have four clients ask all the time inside the block; counts statuses, and whole answers."""
    done, replies = threading.Event(), Counter[str]()
    body = {"model": "demo", "prompt": "lib", "max_tokens": 40, "ignore_eos": True}

    def ask(stream: bool) -> None:
        while not done.is_set():
            try:
                reply = post(url, **body, stream=stream)
                whole = not stream or reply.text.endswith("data: [DONE]\n\n")
                replies[f"{reply.status_code} {whole}"] += 1
            except httpx.HTTPError as error:
                replies[repr(error)] += 1

    threads = [threading.Thread(target=ask, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        more(replies)
        yield replies
    finally:
        done.set()
        for thread in threads:
            thread.join()


def more(replies: Counter[str]) -> None:
    """Wait for some more replies."""
    before = replies.total()
    until(lambda: replies.total() > before + 10, SOON)


def test_a_rolling_redeploy_drops_no_request(url: str) -> None:
    """The model's settings and the front door's change while clients go on asking."""
    serve.run(build_app(arguments(max_queued=64)), name=APP, route_prefix="/")
    with asking(url) as replies:
        changed = arguments(max_queued=64, system="fold", hang_s=99, replicas=2)
        changed = changed.model_copy(
            update={"limits": changed.limits.model_copy(update={"max_prompts": 7})}
        )
        serve.run(build_app(changed), name=APP, route_prefix="/")
        more(replies)
    assert replies.keys() == {"200 True"}, replies
    assert post(url, model="demo", prompt=["x"] * 8).status_code == 400
    until(lambda: _demo(url)["replicas"] == {"running": 2})
    until(lambda: len({engine["replica"] for engine in _demo(url)["engines"]}) == 2)


def test_a_replica_that_is_killed_under_load_costs_its_own_requests_alone(url: str) -> None:
    two = arguments(max_queued=64, replicas=2)
    serve.run(build_app(two), name=APP, route_prefix="/")
    until(lambda: _demo(url)["replicas"] == {"running": 2})
    with asking(url) as replies:
        victim = next(p for p in psutil.process_iter() if f"{APP}:demo" in " ".join(_title(p)))
        victim.kill()
        more(replies)
        until(lambda: _demo(url)["replicas"] == {"running": 2}, 60)
        more(replies)
    # One that was streamed has its status already, and ends with an error instead of [DONE].
    assert replies.keys() <= {"200 True", "200 False", "503 True", "503 False"}, replies
    assert replies.total() - replies["200 True"] <= 2, "a replica has two requests at a time"


def _demo(url: str) -> dict[str, Any]:
    models: list[dict[str, Any]] = httpx.get(f"{url}/status").json()["models"]
    return next(model for model in models if model["id"] == "demo")
