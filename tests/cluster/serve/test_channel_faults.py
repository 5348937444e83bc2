"""What becomes of streams whose connection breaks, whose front door hangs, or whose call ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from actors.calls import Call, Ended, TextPrompt
from cluster.serve import remote
from cluster.serve.channel.frames import ReturnAddress, prove
from cluster.serve.channel.receiver import Receiver
from cluster.serve.channel.sender import Sender, Senders
from cluster.serve.errors import ApiError, EngineLostError
from cluster.serve.remote import RemoteBackend
from model.params import SamplingParams
from model.tasks import Generate

from .channels import HOST, SOON, added, run, until

CALL = Call((TextPrompt("a"), TextPrompt("b")), (Generate(SamplingParams()),))


async def silent_front_door() -> tuple[asyncio.Server, ReturnAddress, list[asyncio.StreamWriter]]:
    """Let replicas in and read nothing; gives the connections as they are made."""
    connections: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await prove(reader, writer, b"secret", accepted=True)

    server = await asyncio.start_server(accept, HOST, 0)
    address = ReturnAddress(HOST, server.sockets[0].getsockname()[1], b"secret", 0)
    return server, address, connections


def test_a_front_door_that_ends_is_noticed_and_a_new_connection_made() -> None:
    async def work() -> None:
        server, address, connections = await silent_front_door()
        senders = Senders()
        first = await senders.to(address)
        assert await senders.to(address) is first
        connections[0].close()
        await until(lambda: not first.alive)
        with pytest.raises(ConnectionResetError):
            first.put(0, [])
        second = await senders.to(address)
        assert second is not first
        assert second.alive
        server.close()
        connections[1].close()
        await until(lambda: not second.alive)
        with pytest.raises(ConnectionRefusedError):
            await senders.to(address)

    run(work)


def test_a_front_door_that_does_not_read_is_not_waited_for_after_its_end() -> None:
    async def work() -> None:
        server, address, connections = await silent_front_door()
        line: Sender = await Senders().to(address)
        line.put(0, [added("x" * (64 << 20))])
        flushed = asyncio.ensure_future(line.flush())
        await asyncio.sleep(0.2)
        assert not flushed.done()
        connections[0].transport.abort()
        with pytest.raises(ConnectionResetError):
            await flushed
        server.close()

    run(work)


class Handle:
    """A handle to one replica that does with a call what a test says."""

    def __init__(self, relay: Callable[[Call, ReturnAddress], Awaitable[bool]]) -> None:
        self._relay = relay
        self.cancelled = 0

    @property
    def relay(self) -> "Handle":
        return self

    def remote(self, call: Call, address: ReturnAddress) -> Any:
        response = asyncio.ensure_future(self._relay(call, address))
        response.add_done_callback(self._note)
        return response

    def _note(self, response: "asyncio.Future[bool]") -> None:
        self.cancelled += response.cancelled()


ENDS: list[tuple[Exception | bool, type[Exception]]] = [
    (True, EngineLostError),
    (False, EngineLostError),
    (RayActorError(), EngineLostError),
    (BackPressureError(num_queued_requests=1, max_queued_requests=1), ApiError),
    (KeyError("a defect"), KeyError),
]


@pytest.mark.parametrize(("end", "raised"), ENDS)
def test_a_call_that_ends_before_its_events_fails_behind_those_that_came(
    end: Exception | bool, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LATE_S", 0.2)
    senders = Senders()

    async def relay(_: Call, address: ReturnAddress) -> bool:
        line = await senders.to(address)
        line.put(address.number, [added("x"), Ended(0, 1)])
        await line.flush()
        await asyncio.sleep(0.1)
        if isinstance(end, Exception):
            raise end
        return end

    async def work() -> None:
        backend = RemoteBackend(Handle(relay), Receiver(HOST))
        stream = backend.stream(CALL)
        assert await anext(stream) == [added("x"), Ended(0, 1)]
        with pytest.raises(raised):
            await anext(stream)

    run(work)


def test_a_stream_that_is_left_cancels_its_call() -> None:
    senders = Senders()

    async def relay(_: Call, address: ReturnAddress) -> bool:
        line = await senders.to(address)
        line.put(address.number, [added("x")])
        await asyncio.sleep(SOON)
        return True

    async def work() -> None:
        handle = Handle(relay)
        stream = RemoteBackend(handle, Receiver(HOST)).stream(CALL)
        await anext(stream)
        await stream.aclose()
        await until(lambda: handle.cancelled == 1)

    run(work)


def test_a_stream_that_is_read_to_its_end_leaves_its_call_alone() -> None:
    """The call returns a moment later by itself; cancelling it would be one more message."""
    senders = Senders()
    returned = asyncio.Event()

    async def relay(call: Call, address: ReturnAddress) -> bool:
        line = await senders.to(address)
        line.put(address.number, [Ended(n, 1) for n in range(len(call.prompts))])
        await line.flush()
        await asyncio.sleep(0.1)
        returned.set()
        return True

    async def work() -> None:
        handle = Handle(relay)
        stream = RemoteBackend(handle, Receiver(HOST)).stream(CALL)
        assert [some async for some in stream] == [[Ended(0, 1), Ended(1, 1)]]
        await returned.wait()
        assert not handle.cancelled

    run(work)
