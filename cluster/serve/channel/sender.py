"""The replica's end: one connection to each front door, made when the first call needs it."""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from actors.calls import Event

from .frames import HANDSHAKE_S, Message, ReturnAddress, pack, prove
from .tls import context

# A front door whose machine is gone says nothing more; the kernel would wait a quarter of an hour.
SILENCE_MS = 30_000

Line = tuple[str, int, bytes]


class Sender:
    """One connection. Messages that are given before it could send the last ones go together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._tasks = [asyncio.ensure_future(work()) for work in (self._send, self._watch)]

    @property
    def alive(self) -> bool:
        """Whether it works, as far as is known."""
        return not any(task.done() for task in self._tasks)

    def put(self, number: int, events: Sequence[Event]) -> None:
        """Send what happened to a call, soon. Raises ConnectionError where it can't be sent."""
        if not self.alive:
            raise ConnectionResetError("the front door has closed the connection")
        self._queue.put_nowait(Message.of(number, events))

    async def flush(self) -> None:
        """Return when everything was handed to the kernel. Raises as `put`."""
        done = asyncio.ensure_future(self._queue.join())
        await asyncio.wait({done, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            done.cancel()
            raise ConnectionResetError("the front door has closed the connection")

    async def _send(self) -> None:
        with suppress(OSError):
            while True:
                messages = [await self._queue.get()]
                while not self._queue.empty():
                    messages.append(self._queue.get_nowait())
                self._writer.write(pack(messages))
                await self._writer.drain()
                for _ in messages:
                    self._queue.task_done()

    async def _watch(self) -> None:
        """Return when the other side closes the connection: it sends nothing."""
        with suppress(OSError):
            await self._reader.read(1)
        self._writer.close()


class Senders:
    """All connections of a replica."""

    def __init__(self) -> None:
        self._made: dict[Line, asyncio.Task[Sender]] = {}

    async def to(self, address: ReturnAddress) -> Sender:
        """Give the connection to a front door.

        Raises:
            OSError, EOFError: there is none to be had.
        """
        line = address.host, address.port, address.secret
        made = self._made.get(line)
        if made is None or (made.done() and not _works(made)):
            self._forget_broken()
            made = self._made[line] = asyncio.ensure_future(_connect(*line))
        return await asyncio.shield(made)  # others may wait for it, too

    def _forget_broken(self) -> None:
        broken = [line for line, made in self._made.items() if made.done() and not _works(made)]
        for line in broken:
            del self._made[line]


def _works(made: asyncio.Task[Sender]) -> bool:
    return not made.cancelled() and made.exception() is None and made.result().alive


async def _connect(host: str, port: int, secret: bytes) -> Sender:
    async with asyncio.timeout(HANDSHAKE_S):
        tls = context(os.environ, accepts=False)
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    _notice_silence(writer)
    # A buffer that counts as full with its first byte: what is drained is with the kernel.
    writer.transport.set_write_buffer_limits(high=0)
    try:
        await prove(reader, writer, secret, accepted=False)
    except BaseException:
        writer.close()
        raise
    return Sender(reader, writer)


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """Have the connection break when what was sent is not acknowledged for a while."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
