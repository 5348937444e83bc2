"""Files and batches, as the front door has them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .desk import Desk

# A scrape must not wait for a worker that is being replaced.
METRICS_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Batches:
    """What the routes of files and batches use.

    Attributes:
        desk: does what they ask.
        metrics: gives those of the worker.
    """

    desk: Desk
    metrics: Callable[[], Awaitable[bytes]]

    async def worker_metrics(self) -> bytes:
        """Give the worker's metrics; nothing while there is no worker."""
        try:
            async with asyncio.timeout(METRICS_WAIT_S):
                return await self.metrics()
        except Exception:  # noqa: BLE001 - whatever Ray says of it
            return b""
