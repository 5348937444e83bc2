"""The worker of batches as a deployment of Ray Serve, which starts it again when it has died."""

import asyncio
from collections.abc import Mapping
from typing import Any

from cluster.serve.remote import RemoteBackend, node_receiver
from cluster.serve.settings import Limits
from pipelines.storage import open_store

from .answering import Answerer, Lane, adapter_lanes
from .shelf import Shelf
from .worker import Worker


class BatchWorker:
    """Runs batches on the models of its application.

    Args:
        handles: the models by name.
        lines: how many lines may be on their way to each.
        directory: where files and batches are.
        limits: what a batch, and a line, may take.
        at_once: batches that run at the same time.
        parents: the models of adapters, by the adapters' names.

    Raises on construction:
        StorageError: the directory can't be used.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        handles: Mapping[str, Any],
        lines: Mapping[str, int],
        directory: str,
        limits: Limits,
        at_once: int,
        parents: Mapping[str, str],
    ) -> None:
        receiver = node_receiver()
        lanes = {
            name: Lane(RemoteBackend(handle, receiver), lines[name])
            for name, handle in handles.items()
        }
        lanes |= adapter_lanes(lanes, parents)
        shelf = Shelf(open_store(directory))
        self._worker = Worker(shelf, Answerer(lanes), limits, at_once=at_once)
        await asyncio.to_thread(self._worker.check)
        self._task = asyncio.create_task(self._worker.run())

    async def metrics(self) -> bytes:
        """Give what it counts, for Prometheus."""
        return self._worker.metrics.text()

    def check_health(self) -> None:
        """Return if it works; Ray Serve asks every few seconds."""
        if self._task.done():
            self._task.result()
            raise RuntimeError("the worker of batches has ended")
