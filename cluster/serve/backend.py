"""What the front door needs of a model, wherever its engine runs."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.calls import (
    Call,
    Card,
    EndpointStats,
    Event,
    Failure,
    Prompt,
    PromptAnswer,
    Tokens,
)
from actors.endpoint import Endpoint
from model.errors import EngineDeadError

from .errors import busy


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """What one replica said of its engine.

    Attributes:
        replica: names it, for as long as it lives.
        stats: what it said.
        read: when, as time.monotonic() counts here.
    """

    replica: str
    stats: EndpointStats
    read: float


@dataclass(frozen=True, slots=True)
class BackendState:
    """What becomes of a model at the moment.

    Attributes:
        replicas: how many are in which state.
        in_flight: calls that have come through this backend and are not answered yet.
        engines: the replicas that run.
    """

    replicas: Mapping[str, int]
    in_flight: int
    engines: Sequence[ReplicaStats]


class Backend(Protocol):
    """One served model. Whoever is cancelled, or closes a stream early, aborts the call.

    Each may raise ApiError: 429 where the queue is full, 503 where there is no engine.
    """

    async def describe(self) -> Card:
        """Say what the model is."""
        ...

    async def state(self) -> BackendState:
        """Say what becomes of it; soon, and without an error where there is no engine."""
        ...

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        """Answer a call."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Answer a call token by token; see actors.endpoint."""
        ...

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        """Give the tokens of a prompt."""
        ...

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        """Give the text of tokens."""
        ...


class AdapterBackend:
    """A model with one of its adapters, on the engines of the model.

    Args:
        model: the backend of the model itself.
        parent: what requests call the model.
        adapter: the adapter's name.
    """

    def __init__(self, model: Backend, parent: str, adapter: str) -> None:
        self._model = model
        self._parent = parent
        self._adapter = adapter

    async def describe(self) -> Card:
        """Say what the model is."""
        return replace(await self._model.describe(), parent=self._parent)

    async def state(self) -> BackendState:
        """Say what becomes of the model."""
        return await self._model.state()

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        """Answer a call."""
        return await self._model.compute(replace(call, adapter=self._adapter))

    def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Answer a call token by token."""
        return self._model.stream(replace(call, adapter=self._adapter))

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        """Give the tokens of a prompt."""
        return await self._model.tokenize(prompt)

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        """Give the text of tokens."""
        return await self._model.detokenize(ids)


def with_adapters(
    backends: Mapping[str, Backend], parents: Mapping[str, str]
) -> dict[str, Backend]:
    """Add adapters to models: each is a model of its own to those who ask.

    Args:
        backends: the models by name.
        parents: of each adapter, by its name.
    """
    adapters = {
        name: AdapterBackend(backends[parent], parent, name) for name, parent in parents.items()
    }
    return {**backends, **adapters}


class LocalBackend:
    """A model whose engine is in this process.

    Args:
        endpoint: holds the engine.
        most: calls that may be in flight, those included that wait for the engine.
    """

    def __init__(self, endpoint: Endpoint, most: int) -> None:
        self._endpoint = endpoint
        self._most = most
        self.ongoing = 0

    async def describe(self) -> Card:
        """Say what the model is."""
        return await self._endpoint.describe()

    async def state(self) -> BackendState:
        """Say what becomes of it."""
        try:
            self._endpoint.check_health()
        except EngineDeadError:
            return BackendState({"unhealthy": 1}, self.ongoing, ())
        stats = ReplicaStats("local", await self._endpoint.stats(), time.monotonic())
        return BackendState({"running": 1}, self.ongoing, (stats,))

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        """Answer a call, unless there are too many."""
        self._enter()
        try:
            return await self._endpoint.compute(call)
        finally:
            self.ongoing -= 1

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Answer a call token by token, unless there are too many."""
        self._enter()
        events = self._endpoint.stream(call)
        try:
            async for some in events:
                yield some
        finally:
            self.ongoing -= 1
            await events.aclose()

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        """Give the tokens of a prompt."""
        return await self._endpoint.tokenize(prompt)

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        """Give the text of tokens."""
        return await self._endpoint.detokenize(ids)

    def _enter(self) -> None:
        if self.ongoing >= self._most:
            raise busy()
        self.ongoing += 1
