import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI

from actors.endpoint import Endpoint
from cluster.serve.access import Keys
from cluster.serve.api import make_app
from cluster.serve.backend import Backend, LocalBackend
from cluster.serve.batches.front import Batches
from cluster.serve.settings import Limits
from model import Engine
from model.params import EngineConfig

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
FOLDERS = {
    "demo": EXAMPLES / "demo-model" / "causal-lm",
    "classifier": EXAMPLES / "demo-model" / "classifier",
    "tagger": EXAMPLES / "tagger",
}
# What is waited for this long fails the test.
SOON = 20.0
CHAT = [{"role": "user", "content": "Name the section of this Debian package.\nlibssl-dev"}]


def config(name: str) -> EngineConfig:
    return EngineConfig(
        checkpoint=str(FOLDERS[name]), threads=1, kv_cache_bytes=64 << 20, schedule="fcfs"
    )


@dataclass(frozen=True)
class Served:
    """An application that listens on loopback."""

    url: str
    app: FastAPI

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=SOON, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=SOON, **options)


Serving = Callable[..., Served]


@contextmanager
def listening(app: FastAPI) -> Iterator[Served]:
    """Have uvicorn serve an application, as Serve's proxy does."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        thread.join(SOON)


def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def endpoints() -> Iterator[Mapping[str, Endpoint]]:
    made = {name: Endpoint(config(name)) for name in FOLDERS}
    yield made
    for endpoint in made.values():
        endpoint.close()


@pytest.fixture(scope="session")
def served(endpoints: Mapping[str, Endpoint]) -> Iterator[Served]:
    """All three models, open to everybody."""
    backends: dict[str, Backend] = {
        name: LocalBackend(endpoint, 64) for name, endpoint in endpoints.items()
    }
    with listening(make_app(backends, None)) as app:
        yield app


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Serve backends of a test's own: serving(backends, keys=..., limits=..., batches=...)."""
    with ExitStack() as stack:

        def serve(
            backends: Mapping[str, Backend],
            keys: Keys | None = None,
            limits: Limits | None = None,
            batches: Batches | None = None,
        ) -> Served:
            return stack.enter_context(listening(make_app(backends, keys, limits, batches=batches)))

        yield serve


@pytest.fixture(scope="session")
def offline() -> Iterator[Engine]:
    """The same checkpoint, asked directly: the oracle."""
    with Engine(config("demo")) as engine:
        yield engine


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return served.client()
