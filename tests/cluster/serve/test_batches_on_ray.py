"""Batches on Ray Serve, whose processes are killed while they run."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest
from ray import serve

from cluster.serve import ServeArgs, build_app
from model import Engine, SamplingParams

from .batching import created, line, results
from .conftest import FOLDERS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

APP = "test-batches"
LINES = 200
# Of each answer: enough for a batch to be amid its work when somebody looks.
TOKENS = 250
LONG = 120.0


@pytest.fixture(scope="module")
def url(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = {
        "model": str(FOLDERS["demo"]),
        "name": "demo",
        "cpus": 0.5,
        "kv_cache_bytes": 64 << 20,
        "threads": 1,
        "max_ongoing": 8,
        "max_queued": 4,
        # More than Serve lets in at a time: what does not fit is sent again.
        "batch_ongoing": 24,
    }
    args = {"models": [model], "anonymous": True, "batch_dir": str(tmp_path_factory.mktemp("b"))}
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_app(ServeArgs.model_validate(args)), name=APP, route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.delete(APP)
    serve.shutdown()


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=9, timeout=60)


def patiently(condition: Callable[[], bool]) -> None:
    """Wait as a client would, without keeping the front door busy."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < LONG
        time.sleep(0.3)
    print(f"waited {time.monotonic() - begun:.1f} s")


def the_process_of(deployment: str) -> psutil.Process:
    """Find it, once it has been started again if it was killed a moment ago."""
    title = f"{APP}:{deployment}"
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = [p for p in psutil.process_iter() if title in " ".join(_title(p))]
        return bool(found)

    patiently(is_there)
    (process,) = found
    return process


def _title(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def prompts(count: int) -> list[dict[str, Any]]:
    return [
        line(f"id-{n}", model="demo", prompt=f"lib{n}", max_tokens=TOKENS, ignore_eos=True, seed=n)
        for n in range(count)
    ]


def test_each_line_is_answered_once_though_worker_and_engine_are_killed(
    client: openai.OpenAI, url: str, offline: Engine
) -> None:
    """And as the engine does that is asked directly, with the same seeds."""
    batch = created(client, prompts(LINES))

    def done() -> int:
        return int(client.batches.retrieve(batch.id).request_counts.completed)

    for lines, victim in ((10, "batches"), (70, "demo"), (110, "batches")):
        patiently(lambda least=lines: done() > least)
        assert client.batches.retrieve(batch.id).status == "in_progress"
        the_process_of(victim).kill()
    assert client.completions.create(model="demo", prompt="x", max_tokens=1).choices
    patiently(lambda: client.batches.retrieve(batch.id).status == "completed")
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": LINES, "completed": LINES, "failed": 0}
    answers, errors = results(client, batch)
    assert not errors
    assert [answer["custom_id"] for answer in answers] == [f"id-{n}" for n in range(LINES)]
    some = range(0, LINES, 20)
    params = [
        SamplingParams(max_tokens=TOKENS, temperature=1.0, ignore_eos=True, seed=n) for n in some
    ]
    wanted = [offline.generate([f"lib{n}"], p)[0] for n, p in zip(some, params, strict=True)]
    for n, output in zip(some, wanted, strict=True):
        reply = answers[n]["response"]["body"]
        assert reply["choices"][0]["text"] == output.text
        assert reply["usage"]["completion_tokens"] == TOKENS
    assert "gemmaray_batch_lines_total" in httpx.get(f"{url}/metrics").text


def test_a_batch_is_cancelled_amid_its_work(client: openai.OpenAI) -> None:
    batch = created(client, prompts(LINES))
    patiently(lambda: client.batches.retrieve(batch.id).request_counts.completed > 20)
    client.batches.cancel(batch.id)
    patiently(lambda: client.batches.retrieve(batch.id).status == "cancelled")
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "cancelled"
    answers, errors = results(client, batch)
    assert answers
    assert errors
    ids = {item["custom_id"] for item in [*answers, *errors]}
    assert len(answers) + len(errors) == len(ids) == LINES
