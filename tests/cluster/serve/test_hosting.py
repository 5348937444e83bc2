"""The thread that speaks HTTP, without Ray."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from cluster.serve.hosting import listening

PATIENCE_S = 60.0


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    async def ticks(count: int) -> AsyncIterator[str]:
        for n in range(count):
            yield f"{n}\n"
            await asyncio.sleep(0.01)

    @app.get("/{count}")
    async def stream(count: int) -> StreamingResponse:
        return StreamingResponse(ticks(count))

    return app


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


def test_what_is_in_flight_is_answered_first(app: FastAPI, listener: socket.socket) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        with listening(app, listener, PATIENCE_S):
            stream = client.send(client.build_request("GET", "/50"), stream=True)
            lines = stream.iter_lines()
            assert next(lines) == "0"
        assert list(lines)[-1] == "49"


def test_an_interrupt_in_the_block_cuts_it_off(app: FastAPI, listener: socket.socket) -> None:
    """A second Ctrl-C that comes before anything waits: it was waited for in full then."""
    began = time.monotonic()
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        with suppress(KeyboardInterrupt), listening(app, listener, PATIENCE_S):
            stream = client.send(client.build_request("GET", "/100000"), stream=True)
            lines = stream.iter_lines()
            assert next(lines) == "0"
            raise KeyboardInterrupt
        assert time.monotonic() - began < PATIENCE_S / 4
        with pytest.raises(httpx.TransportError):
            list(lines)
