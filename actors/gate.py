"""Who shares a process with whom."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Lets many in together, or one with nobody else inside; for the tasks of one event loop.

    Once someone waits to be alone nobody else is let in before him, so that his turn comes.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting = 0
        self._taken = False

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        """Be inside in the block, alone or with others."""
        if alone:
            await self._enter_alone()
        else:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._waiting and not self._taken)
                self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._taken = False
                self._changed.notify_all()

    async def _enter_alone(self) -> None:
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: self._inside == 0)
                self._inside += 1
                self._taken = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
