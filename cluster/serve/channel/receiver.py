"""The front door's end: takes frames and gives each call its own events."""

import asyncio
import errno
import itertools
import logging
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from actors.calls import Ended, Event, Failure

from .frames import ReturnAddress, prove, read_frame
from .tls import context

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - nobody is let in without the secret


class Inbox:
    """The events of one call as they come; iterating ends with the last of them.

    Args:
        address: where they are to be sent.
        prompts: how many the call has; each of them ends.
    """

    def __init__(self, address: ReturnAddress, prompts: int) -> None:
        self.address = address
        self._left = prompts
        self._queue: asyncio.Queue[list[Event] | BaseException] = asyncio.Queue()

    @property
    def ended(self) -> bool:
        """Whether the last event has been read."""
        return self._left <= 0

    def put(self, item: list[Event] | BaseException) -> None:
        """Give it events, or why there are no more: raised behind those that came before."""
        self._queue.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        """Yield events, all those together that have come together."""
        while not self.ended:
            item = await self._queue.get()
            while isinstance(item, list) and not self._queue.empty():
                more = self._queue.get_nowait()
                if isinstance(more, BaseException):
                    self._queue.put_nowait(more)  # it is the only one left
                    break
                item += more
            if isinstance(item, BaseException):
                raise item
            self._left -= sum(isinstance(event, Ended) for event in item)
            if any(isinstance(event, Failure) for event in item):
                self._left = 0
            yield item


class Receiver:
    """Listens for replicas, from the first call on.

    It belongs to the event loop that it is first used in, and lives as long as the process.

    Args:
        host: where; an address that replicas reach.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._numbers = itertools.count()
        self._inboxes: dict[int, Inbox] = {}
        self._listening = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def port(self) -> int:
        """Give the port that it listens on. Raises OSError where there is none."""
        async with self._listening:
            if self._server is None:
                self._server = await self._listen()
            port: int = self._server.sockets[0].getsockname()[1]
            return port

    @contextmanager
    def inbox(self, port: int, prompts: int) -> Iterator[Inbox]:
        """Have an inbox for a call of so many prompts; what comes for it afterwards is dropped."""
        address = ReturnAddress(self._host, port, self._secret, next(self._numbers))
        inbox = self._inboxes[address.number] = Inbox(address, prompts)
        try:
            yield inbox
        finally:
            del self._inboxes[address.number]

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _listen(self) -> asyncio.Server:
        tls = context(os.environ, accepts=True)
        try:
            return await asyncio.start_server(self._accept, self._host, 0, ssl=tls)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            # An address that is translated on its way here, as Ray allows.
            return await asyncio.start_server(self._accept, ALL_INTERFACES, 0, ssl=tls)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await prove(reader, writer, self._secret, accepted=True)
            while True:
                for message in await read_frame(reader):
                    if inbox := self._inboxes.get(message.number):  # else its caller has left
                        inbox.put(message.events())
        except (EOFError, asyncio.CancelledError):
            pass  # the replica has ended, or this process is about to
        except (OSError, ValueError) as error:
            logger.warning("a connection to the port for replicas ended: %s", error)
        finally:
            writer.close()
