"""A model whose engines run in other processes, behind a handle of Ray Serve."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from actors.calls import Call, Card, Event, Failure, Prompt, PromptAnswer, Tokens

from .backend import BackendState, ReplicaStats
from .errors import EngineLostError, busy
from .latest import Latest


class RemoteBackend:
    """Asks replicas of actors.endpoint.Endpoint.

    Args:
        handle: a DeploymentHandle to them, whose types say nothing of the methods behind it.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._card: Card | None = None
        self._in_flight = 0
        self._states: Latest[Mapping[str, int]] = Latest(self._ask_serve, {})
        self._engines: Latest[Sequence[ReplicaStats]] = Latest(self._ask_replicas, ())

    async def describe(self) -> Card:
        """Say what the model is; replicas are asked once."""
        if self._card is None:
            card: Card = await _answer(self._handle.describe.remote())
            self._card = card
        return self._card

    async def state(self) -> BackendState:
        """Say what becomes of it, as Serve and the replicas said within the last seconds."""
        replicas, engines = await asyncio.gather(self._states.get(), self._engines.get())
        return BackendState(replicas, self._in_flight, engines)

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        """Answer a call."""
        with self._counted():
            answers: list[PromptAnswer] | Failure = await _answer(self._handle.compute.remote(call))
        return answers

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Answer a call token by token."""
        events = self._streaming.stream.remote(call)
        try:
            with self._counted(), _translated():
                async for some in events:
                    yield some
        except (asyncio.CancelledError, GeneratorExit):
            events.cancel()
            raise

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        """Give the tokens of a prompt."""
        tokens: Tokens | Failure = await _answer(self._handle.tokenize.remote(prompt))
        return tokens

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        """Give the text of tokens."""
        text: str | Failure = await _answer(self._handle.detokenize.remote(ids))
        return text

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _ask_serve(self) -> Mapping[str, int]:
        status = await asyncio.to_thread(serve.status)
        deployments = status.applications[self._handle.app_name].deployments
        # By type they are members of an enumeration; Ray 2.60 gives their values, which are texts.
        states = deployments[self._handle.deployment_name].replica_states
        return {state.lower(): count for state, count in states.items() if count}

    async def _ask_replicas(self) -> Sequence[ReplicaStats]:
        # A handle's other calls reach one replica, whichever Serve takes.
        answers: Sequence[Any] = await self._handle.broadcast("report").results_async(
            return_exceptions=True
        )
        now = time.monotonic()
        # Where there is an exception, the replica has ended meanwhile.
        told = [answer for answer in answers if not isinstance(answer, BaseException)]
        return [ReplicaStats(replica, stats, now) for replica, stats in told]


async def _answer(response: Any) -> Any:
    """Wait for an answer; the call is cancelled where this is."""
    try:
        with _translated():
            return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what Ray says of queues and replicas into what a client is told."""
    try:
        yield
    except BackPressureError:
        raise busy() from None
    except RayActorError:
        message = "the replica that had this request has ended; try again"
        raise EngineLostError(message, held=True) from None
    except (DeploymentUnavailableError, ReplicaUnavailableError):
        message = "no replica of this model takes requests now; try again"
        raise EngineLostError(message, held=False) from None
