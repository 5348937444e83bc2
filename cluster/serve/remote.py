"""A model whose engines run in other processes, behind a handle of Ray Serve."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from actors.calls import Call, Card, Event, Failure, Prompt, PromptAnswer, Tokens

from .errors import EngineLostError, busy


class RemoteBackend:
    """Asks replicas of actors.endpoint.Endpoint.

    Args:
        handle: a DeploymentHandle to them, whose types say nothing of the methods behind it.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._card: Card | None = None

    async def describe(self) -> Card:
        """Say what the model is; replicas are asked once."""
        if self._card is None:
            card: Card = await _answer(self._handle.describe.remote())
            self._card = card
        return self._card

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        """Answer a call."""
        answers: list[PromptAnswer] | Failure = await _answer(self._handle.compute.remote(call))
        return answers

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Answer a call token by token."""
        events = self._streaming.stream.remote(call)
        try:
            with _translated():
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
