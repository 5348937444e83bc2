"""The engine's step loop in a thread of its own: submit from anywhere, await anywhere."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from model.errors import EngineDeadError, GemmarayError, ParameterError
from model.outputs import RequestOutput, RequestUpdate, TokenDelta
from model.stats import EngineStats
from model.tasks import Task

if TYPE_CHECKING:  # they bring torch along; whoever passes `build` has it already
    from model import Engine
    from model.engine.request import Prompt

Item = TokenDelta | RequestOutput
Listener = Callable[[Item | BaseException], None]


@dataclass(frozen=True, slots=True)
class _Submission:
    """A request on its way to the engine, and who wants to hear of it."""

    request_id: str
    prompt: Prompt
    tasks: Sequence[Task]
    listener: Listener
    stream: bool
    salt: bytes
    adapter: str | None


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str


class _Close:
    """Ends the loop."""


_Command = _Submission | _Abort | _Close


class EngineThread:
    """Drives an engine, and is safe to use from any thread.

    The engine is built, stepped and closed in one thread, since the number of threads that torch
    computes with belongs to the thread that calls it.

    Raises on construction:
        whatever `build` raises.
    """

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._listeners: dict[str, Listener] = {}
        self._numbers = count()
        self._stats: EngineStats
        self._turned: float | None = None
        # Guards _death: whoever finds None under it knows that the loop will see his command.
        self._lock = threading.Lock()
        self._death: BaseException | None = None
        built: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(build, built), name="engine", daemon=True
        )
        self._thread.start()
        built.result()

    def submit(
        self,
        prompt: Prompt,
        tasks: Sequence[Task],
        request_id: str | None = None,
        *,
        salt: bytes = b"",
        adapter: str | None = None,
    ) -> Future[RequestOutput]:
        """Queue a request; what it is made of is Engine.add_request's.

        Returns:
            A future of its output; cancelling it aborts the request. It raises what
            Engine.add_request raises and what an update has as its error, and EngineDeadError when
            the engine dies or is closed.
        """
        future: Future[RequestOutput] = Future()

        def listen(item: Item | BaseException) -> None:
            with suppress(InvalidStateError):  # it was cancelled
                if isinstance(item, BaseException):
                    future.set_exception(item)
                elif isinstance(item, RequestOutput):
                    future.set_result(item)

        name = self._send(
            prompt, tasks, request_id, listen, stream=False, salt=salt, adapter=adapter
        )

        def forget(done: Future[RequestOutput]) -> None:
            if done.cancelled():
                self._command(_Abort(name))

        future.add_done_callback(forget)
        return future

    async def stream(
        self,
        prompt: Prompt,
        tasks: Sequence[Task],
        request_id: str | None = None,
        *,
        salt: bytes = b"",
        adapter: str | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Queue a request and yield its tokens as they come, and its output last.

        Leaving the iteration early aborts the request. Raises as `submit`.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Item | BaseException] = asyncio.Queue()

        def listen(item: Item | BaseException) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(items.put_nowait, item)

        name = self._send(
            prompt, tasks, request_id, listen, stream=True, salt=salt, adapter=adapter
        )
        item: Item | BaseException | None = None
        try:
            while not isinstance(item, RequestOutput):
                item = await items.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if not isinstance(item, RequestOutput | BaseException):
                self._command(_Abort(name))

    def counters(self) -> EngineStats:
        """Give what the engine said of itself after its last step, or abort."""
        return self._stats

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._death is None

    @property
    def stalled_s(self) -> float:
        """For how many seconds it has been in the same step; 0 while there is nothing to do."""
        turned = self._turned
        return 0.0 if turned is None or not self.alive else time.monotonic() - turned

    def close(self) -> None:
        """End the engine; requests that are not finished raise EngineDeadError."""
        self._command(_Close())
        self._thread.join()

    # -- any thread --------------------------------------------------------------------------------

    def _send(
        self,
        prompt: Prompt,
        tasks: Sequence[Task],
        request_id: str | None,
        listener: Listener,
        *,
        stream: bool,
        salt: bytes,
        adapter: str | None,
    ) -> str:
        name = request_id if request_id is not None else f"submitted-{next(self._numbers)}"
        submission = _Submission(name, prompt, tasks, listener, stream, salt, adapter)
        if not self._command(submission):
            listener(_dead(self._death))
        return name

    def _command(self, command: _Command) -> bool:
        with self._lock:
            if self._death is None:
                self._commands.put(command)
            return self._death is None

    # -- the engine's thread -----------------------------------------------------------------------

    def _main(self, build: Callable[[], Engine], built: Future[None]) -> None:
        try:
            engine = build()
        except BaseException as error:  # noqa: BLE001 - raised again by the constructor
            with self._lock:
                self._death = error
            built.set_exception(error)
            return
        with self._ending(engine):
            self._stats = replace(engine.stats)
            built.set_result(None)
            self._loop(engine)

    @contextmanager
    def _ending(self, engine: Engine) -> Iterator[None]:
        """Whatever ends the loop, leave nobody waiting."""
        death: BaseException = EngineDeadError("the engine was closed")
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - told to everyone who waits for a result
            death = error
        with self._lock:
            self._death = death
        for listener in self._listeners.values():
            listener(_dead(death))
        self._listeners.clear()
        for command in self._pending(wait=False):
            if isinstance(command, _Submission):
                command.listener(_dead(death))
        with suppress(Exception):  # what it could say was said
            engine.close()

    def _loop(self, engine: Engine) -> None:
        while True:
            self._turned = time.monotonic() if engine.has_work else None
            for command in self._pending(wait=not engine.has_work):
                self._turned = time.monotonic()
                if isinstance(command, _Close):
                    return
                self._obey(engine, command)
            if engine.has_work:
                for update in engine.step():
                    self._tell(update)
            self._stats = replace(engine.stats)

    def _pending(self, *, wait: bool) -> Iterator[_Command]:
        with suppress(queue.Empty):
            yield self._commands.get(block=wait)
            while True:
                yield self._commands.get_nowait()

    def _obey(self, engine: Engine, command: _Submission | _Abort) -> None:
        name = command.request_id
        if isinstance(command, _Abort):
            if self._listeners.pop(name, None) is not None:
                engine.abort(name)
            return
        if name in self._listeners:
            command.listener(ParameterError(f"request id {name!r} is in use"))
            return
        self._listeners[name] = command.listener
        try:
            engine.add_request(
                command.prompt,
                command.tasks,
                request_id=name,
                stream=command.stream,
                salt=command.salt,
                adapter=command.adapter,
            )
        except EngineDeadError:
            raise
        except GemmarayError as error:
            self._listeners.pop(name)(error)

    def _tell(self, update: RequestUpdate) -> None:
        listener = self._listeners.get(update.request_id)
        if listener is None:
            return
        for delta in update.deltas:
            listener(delta)
        end = update.output or update.error
        if end is not None:
            del self._listeners[update.request_id]
            listener(end)


def _dead(death: BaseException | None) -> EngineDeadError:
    if isinstance(death, EngineDeadError):
        return death
    error = EngineDeadError(f"the engine died: {type(death).__name__}: {death}")
    error.__cause__ = death
    return error
