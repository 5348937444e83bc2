"""What all routes share: the models, the limits, and the way of one request to its model."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from actors.calls import Begun, Call, Card, Event, Failure, PromptAnswer

from .access import ANYBODY, CALLER, Caller
from .attending import Deadline, attended, in_time
from .backend import Backend
from .batches.front import Batches
from .errors import ApiError, as_error, no_such_model
from .metrics import (
    COMPLETION_TOKENS,
    FIRST_TOKEN_SECONDS,
    INTER_TOKEN_SECONDS,
    PROMPT_TOKENS,
    STREAM_ERRORS,
    Metrics,
)
from .pace import Pace
from .settings import Limits
from .terms import Terms

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Server:
    """One application.

    Attributes:
        backends: the models by name.
        limits: what one request may take.
        metrics: what is counted.
        batches: files and batches, if there are any here.
    """

    backends: Mapping[str, Backend]
    limits: Limits
    metrics: Metrics = field(default_factory=Metrics)
    batches: Batches | None = None

    def ticket(self, request: Request, model: str, timeout: float | None = None) -> "Ticket":
        """Begin a request.

        Raises:
            ApiError: there is no such model.
        """
        backend = self.backends.get(model)
        if backend is None:
            raise no_such_model(self.backends)
        seconds = min(timeout or self.limits.timeout_s, self.limits.timeout_s)
        caller: Caller = request.scope.get(CALLER, ANYBODY)
        return Ticket(self, request, model, backend, caller, Deadline(seconds))

    async def cards(self, request: Request) -> dict[str, Card]:
        """Describe all models."""
        tickets = [self.ticket(request, name) for name in self.backends]
        cards = await asyncio.gather(*(in_time(t.deadline, t.backend.describe()) for t in tickets))
        return dict(zip(self.backends, cards, strict=True))


def server_of(request: Request) -> Server:
    """Find the server that a request came to."""
    server: Server = request.app.state.server
    return server


ServerOf = Annotated[Server, Depends(server_of)]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request on its way to a model.

    Attributes:
        server: where it came to.
        request: as it came.
        model: what it calls the model.
        backend: the model.
        caller: whose it is.
        deadline: when it is given up.
    """

    server: Server
    request: Request
    model: str
    backend: Backend
    caller: Caller
    deadline: Deadline
    begun: float = field(default_factory=time.monotonic)

    @property
    def terms(self) -> Terms:
        """Under which it is asked."""
        return Terms(self.server.limits, self.caller.salt)

    async def compute(self, call: Call) -> list[PromptAnswer]:
        """Have a call answered.

        Raises:
            ApiError: it can't be, or nobody waits for it any more.
        """
        answers = await self.result(self.backend.compute(call))
        self.count_prompts(sum(answer.prompt_tokens for answer in answers))
        return answers

    async def result(self, work: Awaitable[Result | Failure]) -> Result:
        """Wait for what the model says. Raises as `compute`."""
        result = await attended(self.request, self.deadline, work)
        if isinstance(result, Failure):
            raise as_error(result)
        return result

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Begin a stream, and give the rest of it; then it is certain that there is an answer.

        Raises:
            ApiError: as `compute`; later on it comes out of the stream.
        """
        events = self.backend.stream(call)
        first: list[Event] = []
        try:
            while all(isinstance(event, Begun) for event in first):
                first += await attended(self.request, self.deadline, anext(events))
            _check(first)
        except BaseException:
            await events.aclose()
            raise
        took = time.monotonic() - self.begun
        self.server.metrics.record(FIRST_TOKEN_SECONDS, took, self.model)
        return self._rest(first, events)

    def count_prompts(self, tokens: int) -> None:
        """Count tokens of prompts."""
        self.server.metrics.record(PROMPT_TOKENS, tokens, self.model)

    def count_completions(self, tokens: int) -> None:
        """Count tokens of answers."""
        self.server.metrics.record(COMPLETION_TOKENS, tokens, self.model)

    async def _rest(
        self, first: list[Event], events: AsyncGenerator[list[Event], None]
    ) -> AsyncGenerator[list[Event], None]:
        metrics, pace = self.server.metrics, Pace()
        async with aclosing(events):
            some: list[Event] | None = first
            try:
                while some is not None:
                    _check(some)
                    for seconds in pace.of(some):
                        metrics.record(INTER_TOKEN_SECONDS, seconds, self.model)
                    yield some
                    some = await in_time(self.deadline, _next(events))
            except ApiError as error:
                metrics.record(STREAM_ERRORS, 1, self.model, str(error.status))
                raise


async def _next(events: AsyncGenerator[list[Event], None]) -> list[Event] | None:
    return await anext(events, None)


def _check(events: Sequence[Event]) -> None:
    for event in events:
        if isinstance(event, Failure):
            raise as_error(event)
