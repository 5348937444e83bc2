"""The thread that speaks HTTP, without Ray."""

import asyncio
import os
import signal
import socket
import threading
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
    app.state.ended = 0

    async def ticks(count: int) -> AsyncIterator[str]:
        try:
            for n in range(count):
                yield f"{n}\n"
                await asyncio.sleep(0.01)
        finally:
            time.sleep(0.2)  # noqa: ASYNC251 - what is cancelled may not wait
            app.state.ended += 1

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


def test_an_interrupt_while_it_waits_cuts_it_off(app: FastAPI, listener: socket.socket) -> None:
    """And lets that come to its end: who comes after takes away what it needs for that."""
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        with suppress(KeyboardInterrupt), listening(app, listener, PATIENCE_S):
            stream = client.send(client.build_request("GET", "/100000"), stream=True)
            lines = stream.iter_lines()
            assert next(lines) == "0"
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert app.state.ended == 1
