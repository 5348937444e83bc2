"""Does what is in the queue: one process of its own does it for all front doors.

It keeps nothing that it could not find on the shelf again. So when it dies, the next one goes on
where it was, at the cost of the lines that were on their way.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from cluster.serve.metrics import BatchMetrics
from cluster.serve.protocol.batches import BatchFinding, BatchFindings, Ended, RequestCounts
from cluster.serve.protocol.files import FileObject
from cluster.serve.settings import Limits
from cluster.serve.terms import Terms
from model.errors import GemmarayError
from pipelines.jsonl import chunks, open_lines, split_lines
from pipelines.locations import STORE_ERRORS
from pipelines.storage import probe

from .answering import Answerer
from .checking import Checked, check_lines
from .job import BatchJob, BatchRun, Stopped
from .orders import Entry, Order
from .results import check_results, result_lines
from .shelf import Shelf

logger = logging.getLogger(__name__)

POLL_S = 2.0
LONGEST_PAUSE_S = 60.0
# Of a batch without a new part in between. A worker that dies meanwhile counts.
MOST_TRIES = 10

STOPS: dict[str, tuple[Stopped, Ended]] = {
    "cancelled": (
        Stopped("batch_cancelled", "the batch was cancelled before this line was answered"),
        "cancelled",
    ),
    "expired": (
        Stopped("batch_expired", "the completion window ended before this line was answered"),
        "expired",
    ),
}


class Worker:
    """Runs batches, the oldest first.

    Args:
        shelf: where they are.
        answerer: who answers their lines.
        limits: what one batch, and one line, may take.
        at_once: batches that run at the same time.
        poll_s: between two looks at the queue, and at what becomes of a batch.
        now: gives the time in seconds since 1970.
    """

    def __init__(
        self,
        shelf: Shelf,
        answerer: Answerer,
        limits: Limits,
        *,
        at_once: int = 1,
        poll_s: float = POLL_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._shelf = shelf
        self._answerer = answerer
        self._limits = limits
        self._at_once = at_once
        self._poll_s = poll_s
        self._now = now
        self.metrics = BatchMetrics()

    def check(self) -> None:
        """Make sure that the shelf can be used, before anything else. Raises StorageError."""
        probe(self._shelf.store)
        self._shelf.store.sweep()

    async def run(self) -> None:
        """Work, until this is cancelled."""
        running: dict[Entry, asyncio.Task[None]] = {}
        try:
            while True:
                running = {entry: task for entry, task in running.items() if not task.done()}
                for entry, cancelled in (await self._waiting()).items():
                    # One that was cancelled computes nothing, so it takes nobody's place.
                    if entry not in running and (cancelled or len(running) < self._at_once):
                        running[entry] = asyncio.create_task(self._persistent(entry))
                if running:
                    await asyncio.wait(
                        running.values(),
                        timeout=self._poll_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                else:
                    await asyncio.sleep(self._poll_s)
        finally:
            for task in running.values():
                task.cancel()

    async def _waiting(self) -> dict[Entry, bool]:
        try:
            waiting = await asyncio.to_thread(self._shelf.waiting)
        except STORE_ERRORS as error:
            logger.warning("the queue of batches can't be read: %s", error)
            return {}
        self.metrics.open.set(len(waiting))
        return waiting

    async def _persistent(self, entry: Entry) -> None:
        """Bring a batch to its end, whatever goes wrong meanwhile."""
        pause = self._poll_s
        while True:
            try:
                await self._work(entry)
            except Exception as error:  # noqa: BLE001 - it is tried again, or given up in _work
                words = error if isinstance(error, GemmarayError) else type(error).__name__
                logger.warning("batch %s: %s", entry.batch_id, words)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _work(self, entry: Entry) -> None:
        order = await asyncio.to_thread(self._shelf.taken, entry)
        if order is None:
            return
        if not await asyncio.to_thread(self._shelf.is_stated, order, "end"):
            ended = await self._ended(order)
            self.metrics.ended.labels(ended).inc()
            logger.info("batch %s: %s", order.id, ended)
        await asyncio.to_thread(self._shelf.clear, order)

    async def _ended(self, order: Order) -> Ended:
        """Do a batch, and state how it ended."""
        if await asyncio.to_thread(self._tries, order) > MOST_TRIES:
            message = "the server could not run this batch; it was logged"
            return await self._fail(order, [BatchFinding(code="server_error", message=message)])
        checked = await asyncio.to_thread(self._check, order)
        if checked.findings:
            return await self._fail(order, list(checked.findings))
        now = int(self._now())
        await asyncio.to_thread(self._shelf.state, order, "checked", at=now, total=checked.total)
        job = await asyncio.to_thread(self._job, order)
        run = BatchRun(job, self._answerer, self.metrics.line)
        async with self._watched(order, run, checked.total):
            ledger = await run.run()
        counts = _counts(checked.total, ledger.rows, ledger.failed)
        return await asyncio.to_thread(self._finalize, order, counts)

    def _tries(self, order: Order) -> int:
        return self._shelf.tried(order, len(self._shelf.job(order).names()))

    def _check(self, order: Order) -> Checked:
        path = self._shelf.contents(order.owner, order.input_file_id)
        try:
            with open_lines(path) as stream:
                lines = split_lines(chunks(stream))
                return check_lines(lines, order.endpoint, self._limits.max_batch_lines)
        except FileNotFoundError:
            gone = BatchFinding(code="file_not_found", message="the input file was deleted")
            return Checked(0, (gone,))

    def _job(self, order: Order) -> BatchJob:
        path = self._shelf.contents(order.owner, order.input_file_id)
        # Of the folder, and not of the key: nothing that is made of a key is ever written down.
        terms = Terms(self._limits, f"batches of {order.owner}".encode())
        return BatchJob.begin(self._shelf.job(order), path, order.endpoint, terms)

    async def _fail(self, order: Order, findings: list[BatchFinding]) -> Ended:
        errors = BatchFindings(data=findings)
        now = int(self._now())
        await asyncio.to_thread(self._shelf.end, order, "failed", now, errors=errors)
        return "failed"

    @asynccontextmanager
    async def _watched(self, order: Order, run: BatchRun, total: int) -> AsyncIterator[None]:
        """Meanwhile, show how far a run is, and stop it when it is cancelled or out of time."""
        watch = asyncio.create_task(self._watch(order, run, total))
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def _watch(self, order: Order, run: BatchRun, total: int) -> None:
        shown = None
        while True:
            try:
                if (why := await asyncio.to_thread(self._stop, order)) is not None:
                    run.stop(STOPS[why][0])
                if shown != run.done:
                    shown = run.done
                    counts = _counts(total, *shown)
                    await asyncio.to_thread(self._shelf.show_progress, order, counts)
            except STORE_ERRORS as error:
                logger.warning("batch %s can't be watched: %s", order.id, error)
            await asyncio.sleep(self._poll_s)

    def _stop(self, order: Order) -> str | None:
        """Say whether a batch is to stop; if so, that stands from then on."""
        now = int(self._now())
        if self._shelf.is_stated(order, "cancelling"):
            why = "cancelled"
        elif now >= order.expires_at or self._shelf.is_stated(order, "stopped"):
            why = "expired"
        else:
            return None
        return str(self._shelf.state(order, "stopped", why=why, at=now)["why"])

    def _finalize(self, order: Order, counts: RequestCounts) -> Ended:
        """Write the results, and state the end."""
        shelf = self._shelf
        at = shelf.state(order, "finalizing", at=int(self._now()))["at"]
        url = shelf.job(order).url
        check_results(url)
        files = {}
        for name, file_id, failed, count in (
            ("output", order.output_id, False, counts.completed),
            ("error", order.errors_id, True, counts.failed),
        ):
            if count:
                file = FileObject(
                    id=file_id,
                    bytes=0,
                    created_at=at,
                    filename=f"{order.id}_{name}.jsonl",
                    purpose="batch_output",
                )
                shelf.add_file(order.owner, file, result_lines(url, failed=failed))
                files[f"{name}_file_id"] = file_id
        status: Ended = "completed"
        if shelf.is_stated(order, "stopped"):
            status = STOPS[str(shelf.state(order, "stopped")["why"])][1]
        shelf.end(order, status, int(self._now()), request_counts=counts, **files)
        return status


def _counts(total: int, done: int, failed: int) -> RequestCounts:
    return RequestCounts(total=total, completed=done - failed, failed=failed)
