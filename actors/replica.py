"""The class that Ray Data's actor pool is made of: one engine, many units in flight."""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from model.errors import EngineDeadError, GemmarayError
from model.long_texts import WindowedPrompt
from model.outputs import RequestOutput
from model.params import EngineConfig
from model.tasks import Task

from .engine_thread import EngineThread
from .gate import Gate
from .metrics import FAILED_ROWS, JOB, ROWS, UNITS
from .progress import Report, follow
from .ray_metrics import EngineMetrics, RayMetrics
from .trace import Trace, histogram

if TYPE_CHECKING:
    from model import Engine

REPORT_EVERY_S = 0.5
# A unit that took this many processes along is handed back: one of its rows may be why.
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What the engine is asked for one row, and with which adapter; None is the model alone."""

    prompt_ids: Sequence[int] | WindowedPrompt
    tasks: Sequence[Task]
    adapter: str | None = None


Outcome = RequestOutput | GemmarayError


class UnitWork(Protocol):
    """What the job makes of packets; see pipelines.work."""

    def name(self, packet: pa.Table) -> str:
        """Name the packet's unit."""
        ...

    def requests(self, packet: pa.Table) -> Sequence[Request | None]:
        """Give what to ask for each row; None for rows that have failed already."""
        ...

    def begin(self, packet: pa.Table, attempt: int) -> None:
        """Note durably that an attempt is made, before it is; may block."""
        ...

    def answered(self, packet: pa.Table, outcomes: Mapping[int, Outcome], trace: Trace) -> pa.Table:
        """Put the outcomes of the rows that were asked into the packet."""
        ...

    def commit(self, packet: pa.Table) -> pa.Table:
        """Make the answers in a packet durable, and give what the driver is told; may block."""
        ...

    def given_up(self, packet: pa.Table) -> pa.Table:
        """Give what the driver is told of a packet that nobody computes."""
        ...


class Replica:
    """Computes units. Ray Data calls it for many packets at the same time, on one event loop.

    A checkpoint or setting that can't work is not raised by the constructor: Ray would take that
    for a death and hide the reason. The board is told, and the first call raises it. An engine that
    dies takes the process along, so that Ray starts another one and hands it the same packets; so
    does one whose ranks are dead and whose own thread does not come free of it.
    """

    def __init__(self, config: EngineConfig, work: UnitWork, board: Any) -> None:
        self._work = work
        self._board = board
        self._id = uuid.uuid4().hex
        self._units: dict[str, tuple[int, int]] = {}
        self._gate = Gate()
        self._fault: GemmarayError | None = None
        self._engine: EngineThread | None = None
        self._engine_metrics = EngineMetrics(config.checkpoint, "job")
        self._metrics = RayMetrics(JOB, model=config.checkpoint)
        threading.Thread(target=self._report, name="report", daemon=True).start()
        try:
            self._engine = EngineThread(lambda: _build(config))
        except EngineDeadError:
            raise  # a rank did not come up: another try may do better
        except GemmarayError as error:
            self._fault = error
            board.give_up.remote(str(error))

    async def __call__(self, packet: pa.Table) -> pa.Table:
        """Compute and commit one packet, unless it has taken too many processes along.

        Its last attempt is made with nothing else in the process, so that what was only there when
        another one ended it is not given up.
        """
        self.ready()
        name = self._work.name(packet)
        tried = await self._board.attempts.remote(name)
        async with self._gate.enter(alone=tried == MAX_ATTEMPTS - 1):
            attempt = await self._board.begin.remote(name)
            if attempt > MAX_ATTEMPTS:
                return self._work.given_up(packet)
            await asyncio.to_thread(self._work.begin, packet, attempt)
            answered = await self.compute(packet, attempt)
            reply = await asyncio.to_thread(self._work.commit, answered)
            self._metrics.record(UNITS, 1)
            return reply

    def ready(self) -> None:
        """Return when it can compute.

        Raises:
            GemmarayError: it never will.
        """
        if self._fault:
            raise self._fault

    async def compute(self, packet: pa.Table, attempt: int = 0) -> pa.Table:
        """Compute one packet, whatever became of it before."""
        name, begun = self._work.name(packet), time.time()
        requests = self._work.requests(packet)
        asked = {row: request for row, request in enumerate(requests) if request is not None}
        failed = len(requests) - len(asked)
        self._units[name] = (failed, failed)
        try:
            results = await asyncio.gather(*(self._row(name, r) for r in asked.values()))
        except EngineDeadError:
            os._exit(1)  # not sys.exit: Ray tries again only what it did not see end
        finally:
            self._units.pop(name, None)
        latencies = histogram(seconds for _, seconds in results)
        outcomes = {row: outcome for row, (outcome, _) in zip(asked, results, strict=True)}
        failed += sum(isinstance(outcome, GemmarayError) for outcome in outcomes.values())
        self._metrics.record(ROWS, len(requests))
        self._metrics.record(FAILED_ROWS, failed)
        trace = Trace(begun, time.time(), self._id, latencies, attempt)
        return self._work.answered(packet, outcomes, trace)

    async def _row(self, unit: str, request: Request) -> tuple[Outcome, float]:
        """Give the outcome of a row, and how many seconds it took."""
        outcome: Outcome
        assert self._engine is not None
        submitted = time.perf_counter()
        try:
            future = self._engine.submit(request.prompt_ids, request.tasks, adapter=request.adapter)
            outcome = await asyncio.wrap_future(future)
        except EngineDeadError:
            raise
        except GemmarayError as error:
            outcome = error
        done, failed = self._units[unit]
        self._units[unit] = (done + 1, failed + isinstance(outcome, GemmarayError))
        return outcome, time.perf_counter() - submitted

    def _report(self) -> None:
        while self._engine is None or self._engine.alive:
            report = None
            if self._engine:
                report = self._numbers(self._engine)
                self._engine_metrics.update(self._engine)
            follow(self._board, self._id, report)
            time.sleep(REPORT_EVERY_S)

    def _numbers(self, engine: EngineThread) -> Report:
        stats = engine.counters()
        return Report(stats.prompt_tokens, stats.output_tokens, dict(self._units))


def _build(config: EngineConfig) -> "Engine":
    from model import Engine  # noqa: PLC0415 - the driver imports this module, and needs no torch

    # Ray starts another replica and hands it the same packets; this process can't be saved.
    return Engine(config, on_stuck=lambda _: os._exit(1))
