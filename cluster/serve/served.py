"""The class of the models' deployments: an endpoint whose numbers Ray exports."""

import threading
import time

from ray import serve

from actors.calls import EndpointStats
from actors.endpoint import Endpoint
from actors.ray_metrics import EngineMetrics
from model.chat import SystemPolicy
from model.params import EngineConfig

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
        self._metrics = EngineMetrics(name, "serving")
        threading.Thread(target=self._export, name="metrics", daemon=True).start()

    async def report(self) -> tuple[str, EndpointStats]:
        """Say which replica this is, and what its engine does."""
        return serve.get_replica_context().replica_id.unique_id, await self.stats()

    def _export(self) -> None:
        while self._thread.alive:
            self._metrics.update(self._thread)
            time.sleep(EXPORT_EVERY_S)
