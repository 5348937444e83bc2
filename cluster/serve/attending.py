"""Work is done for somebody who waits: it ends when the client leaves, or a deadline passes."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from starlette.requests import Request

from .errors import gone, too_late

Result = TypeVar("Result")


class Deadline:
    """A point in time, `seconds` from now.

    Attributes:
        seconds: how far it was away at first.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; 0 once it has passed."""
        return max(0.0, self._at - asyncio.get_running_loop().time())


async def attended(request: Request, deadline: Deadline, work: Awaitable[Result]) -> Result:
    """Give the result of some work, and cancel it as soon as nobody wants it any more.

    The body of the request must have been read: what comes after it is the client's leaving.

    Raises:
        ApiError: 408 when the deadline passes, 499 when the client leaves.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait(
            {task, watch}, timeout=deadline.left, return_when=asyncio.FIRST_COMPLETED
        )
        if task.done():
            return task.result()
        raise gone() if watch.done() else too_late(deadline.seconds)
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            # What it held is free when this returns.
            with suppress(asyncio.CancelledError, Exception):
                await task


async def in_time(deadline: Deadline, work: Awaitable[Result]) -> Result:
    """Give the result of some work.

    Raises:
        ApiError: 408 when the deadline passes.
    """
    try:
        async with asyncio.timeout(deadline.left):
            return await work
    except TimeoutError:
        raise too_late(deadline.seconds) from None


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
