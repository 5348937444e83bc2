"""Counts requests and writes one log line for each: route, status, time, whose key; no content."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import CALLER
from .metrics import Metrics

logger = logging.getLogger(__name__)

# A path that a client made up is no label: there are as many as it likes.
UNMATCHED = "unmatched"


class Observing:
    """ASGI middleware.

    Args:
        app: what it stands before.
        metrics: what it counts in.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, begun = 500, time.monotonic()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.in_flight.dec()
            took = time.monotonic() - begun
            route = getattr(scope.get("route"), "path", UNMATCHED)
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(took)
            who = getattr(scope.get(CALLER), "name", "nobody")
            logger.info("%s %s %d %.3f s, %s", scope["method"], route, status, took, who)
