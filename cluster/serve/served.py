"""The class of the models' deployments: an endpoint as Ray Serve calls it."""

import logging
import threading
import time
from contextlib import aclosing

from ray import serve

from actors.calls import Call, EndpointStats
from actors.endpoint import Endpoint
from actors.ray_metrics import EngineMetrics
from model.chat import SystemPolicy
from model.params import EngineConfig

from .channel.frames import ReturnAddress
from .channel.sender import Senders

logger = logging.getLogger(__name__)

# Ray collects what was recorded every few seconds.
EXPORT_EVERY_S = 1.0


class ServedEndpoint(Endpoint):
    """An endpoint on Ray.

    Args:
        name: what requests call the model.
        config: see Endpoint, as the others.
        system: likewise.
        hang_s: likewise.
    """

    def __init__(
        self, name: str, config: EngineConfig, system: SystemPolicy, hang_s: float
    ) -> None:
        super().__init__(config, system, hang_s)
        self._senders = Senders()
        self._metrics = EngineMetrics(name, "serving")
        threading.Thread(target=self._export, name="metrics", daemon=True).start()

    async def relay(self, call: Call, address: ReturnAddress) -> bool:
        """Answer a call token by token, to an address; return when all is sent.

        Returns:
            Whether it is; else nobody can be reached there, or no longer.
        """
        try:
            sender = await self._senders.to(address)
            async with aclosing(self.stream(call)) as events:
                async for some in events:
                    sender.put(address.number, some)
            await sender.flush()
        except (OSError, EOFError) as error:
            logger.warning("tokens can't be sent to a front door: %s", error)
            return False
        return True

    async def report(self) -> tuple[str, EndpointStats]:
        """Say which replica this is, and what its engine does."""
        return serve.get_replica_context().replica_id.unique_id, await self.stats()

    def _export(self) -> None:
        while self._thread.alive:
            self._metrics.update(self._thread)
            time.sleep(EXPORT_EVERY_S)
