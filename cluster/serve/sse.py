"""Server-sent events: chunks as JSON, an error in place of the rest, and [DONE] at the end."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Protocol

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from actors.calls import Event

from .errors import ApiError

DONE = "data: [DONE]\n\n"
# Proxies are told to pass each event on at once.
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Chunks(Protocol):
    """Makes the chunks of one response out of events."""

    def of(self, event: Event) -> Iterable[BaseModel]:
        """Give the chunks that an event makes."""
        ...

    def last(self) -> Iterable[BaseModel]:
        """Give the chunks that come after all events."""
        ...


class EventStream(StreamingResponse):
    """A stream that is closed when its client leaves, which aborts the request behind it."""

    def __init__(self, events: AsyncGenerator[list[Event], None], chunks: Chunks) -> None:
        self._lines = _lines(events, chunks)
        super().__init__(self._lines, media_type="text/event-stream", headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()


async def _lines(
    events: AsyncGenerator[list[Event], None], chunks: Chunks
) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        try:
            async for some in events:
                if lines := "".join(_line(chunk) for event in some for chunk in chunks.of(event)):
                    yield lines
        except ApiError as error:
            yield _line(error.body)
            return
        for chunk in chunks.last():
            yield _line(chunk)
        yield DONE


def _line(chunk: BaseModel) -> str:
    return f"data: {chunk.model_dump_json()}\n\n"
