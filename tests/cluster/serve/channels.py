"""What the tests of the connection between replicas and a front door share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from actors.calls import Added, Event
from cluster.serve.channel.receiver import Inbox, Receiver
from model.outputs import TokenDelta

HOST = "127.0.0.1"
SOON = 20.0


def added(text: str, prompt: int = 0) -> Added:
    return Added(prompt, TokenDelta(0, (len(text),), text), {})


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(SOON):
            await work()

    asyncio.run(bounded())


async def everything(inbox: Inbox) -> list[Event]:
    return [event async for some in inbox for event in some]


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, int]]:
    made = Receiver(HOST)
    try:
        yield made, await made.port()
    finally:
        await made.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - there is nothing that would tell
        await asyncio.sleep(0.005)
