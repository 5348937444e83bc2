"""A model whose engines run in other processes, behind a handle of Ray Serve."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray.util
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from actors.calls import Call, Card, Event, Failure, Prompt, PromptAnswer, Tokens

from .backend import BackendState, ReplicaStats
from .channel.receiver import Inbox, Receiver
from .errors import EngineLostError, busy
from .latest import Latest

# What a replica has sent when it says so is here long before.
LATE_S = 10.0


def node_receiver() -> Receiver:
    """Give a receiver at the address under which the cluster knows this node."""
    return Receiver(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class RemoteBackend:
    """Asks replicas of actors.endpoint.Endpoint.

    Args:
        handle: a DeploymentHandle to them, whose types say nothing of the methods behind it.
        receiver: takes what they stream; one for all backends of a process.
    """

    def __init__(self, handle: Any, receiver: Receiver) -> None:
        self._handle = handle
        self._receiver = receiver
        self._sending: set[asyncio.Task[bool]] = set()  # the loop alone would let go of them
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
        port = await self._receiver.port()
        with self._counted(), self._receiver.inbox(port, len(call.prompts)) as inbox:
            sending = asyncio.ensure_future(_answer(self._handle.relay.remote(call, inbox.address)))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
            sending.add_done_callback(partial(_sent, inbox))
            try:
                async for some in inbox:
                    yield some
            except (asyncio.CancelledError, GeneratorExit):
                sending.cancel()
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


def _sent(inbox: Inbox, sending: "asyncio.Task[bool]") -> None:
    """Tell the reader of an inbox what became of the call, lest it wait for more than there is."""
    if sending.cancelled():
        return
    if error := sending.exception():
        inbox.put(error)
        return
    if inbox.ended:
        return
    lost = EngineLostError("the answer was lost on its way; try again", held=False)
    if sending.result():  # what was sent may be a moment behind
        asyncio.get_running_loop().call_later(LATE_S, inbox.put, lost)
    else:
        inbox.put(lost)


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
