"""What somebody far away said last, for those who look often and don't want to wait long."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

FRESH_S = 1.0
PATIENCE_S = 1.0


class Latest(Generic[Value]):
    """Asks one question at a time, however many want to know.

    Args:
        ask: gives the answer, sooner or later; one that fails leaves the last answer standing.
        nothing: what is known before the first answer.
    """

    def __init__(self, ask: Callable[[], Awaitable[Value]], nothing: Value) -> None:
        self._ask = ask
        self._value = nothing
        self._question: asyncio.Task[None] | None = None
        self._asked = 0.0

    async def get(self) -> Value:
        """Give an answer that is fresh, or after a second the last one."""
        question = self._question
        old = time.monotonic() - self._asked > FRESH_S
        if question is None or (question.done() and old):
            self._asked = time.monotonic()
            question = self._question = asyncio.ensure_future(self._renew())
        await asyncio.wait({question}, timeout=PATIENCE_S)
        return self._value

    async def _renew(self) -> None:
        try:
            self._value = await self._ask()
        except Exception as error:  # noqa: BLE001 - whatever Ray raises while replicas come and go
            logger.warning("no news of the replicas: %s", type(error).__name__)
