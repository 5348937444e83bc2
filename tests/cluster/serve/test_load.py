"""Under load: a full queue, clients that leave, deadlines, a hung or dead engine."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import openai
import pytest

from actors.calls import Call, TextPrompt
from actors.endpoint import Endpoint
from cluster.serve.backend import LocalBackend
from cluster.serve.settings import Limits
from model.errors import EngineDeadError
from model.params import SamplingParams
from model.tasks import Generate

from .conftest import Served, Serving, config, until

ENDLESS: dict[str, Any] = {"model": "m", "prompt": "x", "max_tokens": 8000, "ignore_eos": True}
SHORT: dict[str, Any] = {"model": "m", "prompt": "x", "max_tokens": 1}
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "x"}],
    "ignore_eos": True,
}


class Hold:
    """A model that takes two requests at a time, and counts them."""

    def __init__(self, endpoint: Endpoint, serving: Serving, limits: Limits | None = None) -> None:
        self.backend = LocalBackend(endpoint, 2)
        self.served = serving({"m": self.backend}, limits=limits)

    def leave_after(self, seconds: float, path: str, body: dict[str, Any]) -> None:
        """Ask, and close the connection."""
        data = json.dumps(body).encode()
        host = self.served.url.removeprefix("http://")
        with socket.create_connection(host.split(":")) as connection:  # type: ignore[arg-type]
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(data)}\r\n\r\n".encode()
                + data
            )
            until(lambda: self.backend.ongoing)
            time.sleep(seconds)


@pytest.fixture
def hold(endpoints: Mapping[str, Endpoint], serving: Serving) -> Hold:
    return Hold(endpoints["demo"], serving)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", ENDLESS), ("/v1/chat/completions", CHAT)]
)
def test_a_client_that_leaves_frees_its_place_within_a_second(
    hold: Hold, endpoints: Mapping[str, Endpoint], path: str, body: dict[str, Any], stream: bool
) -> None:
    thread = endpoints["demo"]._thread
    hold.leave_after(0.3, path, {**body, "stream": stream})
    left = time.monotonic()
    until(lambda: hold.backend.ongoing == 0)
    assert time.monotonic() - left < 1.0
    steps = thread.counters().steps
    time.sleep(0.2)
    assert thread.counters().steps - steps <= 1, "the engine goes on for nobody"


def test_more_than_the_queue_holds_is_refused(hold: Hold) -> None:
    threads = [
        threading.Thread(target=hold.leave_after, args=(1.0, "/v1/completions", ENDLESS))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    until(lambda: hold.backend.ongoing == 2)
    for stream in (False, True):
        reply = hold.served.post("/v1/completions", {**SHORT, "stream": stream})
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["code"] == "queue_full"
    with pytest.raises(openai.RateLimitError):
        hold.served.client().embeddings.create(model="m", input="x")
    # OpenAI's client tries again by itself, and gets through.
    patient = hold.served.client().with_options(max_retries=8)
    assert patient.completions.create(**SHORT).choices
    for thread in threads:
        thread.join()


def test_a_deadline_ends_a_request(hold: Hold) -> None:
    begun = time.monotonic()
    reply = hold.served.post("/v1/completions", {**ENDLESS, "timeout": 0.3})
    assert time.monotonic() - begun < 1.5
    assert reply.status_code == 408
    assert reply.json()["error"]["code"] == "deadline_exceeded"
    assert reply.headers["x-should-retry"] == "false"
    until(lambda: hold.backend.ongoing == 0, 1.0)


def test_a_deadline_ends_a_stream_with_an_error(hold: Hold) -> None:
    chunks = hold.served.client().completions.create(
        model="m",
        prompt="x",
        max_tokens=8000,
        stream=True,
        extra_body={"ignore_eos": True, "timeout": 0.5},
    )
    assert next(chunks).choices
    with pytest.raises(openai.APIError, match=r"took longer than 0\.5 s"):
        list(chunks)
    until(lambda: hold.backend.ongoing == 0, 1.0)


def test_the_servers_own_limit_can_not_be_raised(
    endpoints: Mapping[str, Endpoint], serving: Serving
) -> None:
    hold = Hold(endpoints["demo"], serving, Limits(timeout_s=0.3))
    reply = hold.served.post("/v1/completions", {**ENDLESS, "timeout": 60})
    assert (reply.status_code, "0.3 s" in reply.text) == (408, True)


def test_limits_of_one_request(endpoints: Mapping[str, Endpoint], serving: Serving) -> None:
    limits = Limits(max_prompts=2, max_choices=4, max_body_bytes=2000)
    served = Hold(endpoints["demo"], serving, limits).served
    for changes, status in (
        ({"prompt": ["x"] * 2, "n": 2}, 200),
        ({"prompt": ["x"] * 3}, 400),
        ({"prompt": ["x"] * 2, "n": 3}, 400),
        ({"prompt": "x" * 2000}, 413),
    ):
        assert served.post("/v1/completions", {**SHORT, **changes}).status_code == status


def test_many_at_once_all_get_their_own(served: Served) -> None:
    client = served.client()
    seeds = list(range(12))
    answers: dict[int, str] = {}

    def ask(seed: int) -> None:
        chunks = client.completions.create(
            model="demo", prompt="lib", seed=seed, max_tokens=12, stream=True
        )
        answers[seed] = "".join(choice.text for chunk in chunks for choice in chunk.choices)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        alone = client.completions.create(model="demo", prompt="lib", seed=seed, max_tokens=12)
        assert answers[seed] == alone.choices[0].text


@pytest.fixture
def fresh() -> Iterator[Endpoint]:
    endpoint = Endpoint(config("demo"), hang_s=0.2)
    yield endpoint
    endpoint.close()


def test_health_sees_an_engine_that_hangs(fresh: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.check_health()
    go_on = threading.Event()
    monkeypatch.setattr("model.engine.core.EngineCore.step", lambda _: go_on.wait(10) and [])
    call = Call((TextPrompt("x"),), (Generate(SamplingParams(max_tokens=1)),))

    async def ask() -> None:
        asked = asyncio.ensure_future(fresh.compute(call))
        await asyncio.sleep(0.5)
        with pytest.raises(EngineDeadError, match="in one step"):
            fresh.check_health()
        monkeypatch.undo()
        go_on.set()
        assert await asked
        fresh.check_health()

    asyncio.run(ask())


def test_health_sees_an_engine_that_is_dead(fresh: Endpoint) -> None:
    fresh.close()
    with pytest.raises(EngineDeadError):
        fresh.check_health()
