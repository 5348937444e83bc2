"""Counts requests and writes one log line for each: route, status, time, whose key; no content."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import CALLER
from .metrics import IN_FLIGHT, REQUEST_SECONDS, REQUESTS, Metrics

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
        self._in_flight = 0

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

        self._enter(1)
        try:
            await self._app(scope, receive, noted)
        finally:
            self._enter(-1)
            took = time.monotonic() - begun
            route = getattr(scope.get("route"), "path", UNMATCHED)
            self._metrics.record(REQUESTS, 1, route, str(status))
            self._metrics.record(REQUEST_SECONDS, took, route)
            who = getattr(scope.get(CALLER), "name", "nobody")
            logger.info("%s %s %d %.3f s, %s", scope["method"], route, status, took, who)

    def _enter(self, change: int) -> None:
        self._in_flight += change
        self._metrics.record(IN_FLIGHT, self._in_flight)
