"""The job of a batch: a plan, units of lines, parts that are committed once.

It differs from jobs of Parquet in what computes: not engines of its own, but the served models,
which need no second copy of their weights for it. So there is nothing to place and nothing for Ray
Data to move: one process has many lines on their way, and whoever runs the job again goes on with
the units that have no part. `gemmaray verify` and `status` read the folder as any other.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import pyarrow as pa

from actors.trace import Trace, histogram
from cluster.serve.terms import Terms
from pipelines.commit import Receipt, commit, each_committed, finish
from pipelines.inputs import InputFile, survey
from pipelines.ledger import Ledger
from pipelines.lines_file import lines_of
from pipelines.locations import parse_location
from pipelines.plan import Plan, Unit, join_or_start, row_seed
from pipelines.storage import Store

from .answering import Answerer, Outcome, left_out, refused
from .endpoints import ENDPOINTS, BatchEndpoint
from .lines import BatchLine, read_line

# A crash costs the lines of the units that are being computed, a commit two writes.
UNIT_LINES = 64
# The last lines of one unit are computed beside the first of the next.
UNITS_BESIDE = 2

SCHEMA = pa.schema(
    [
        pa.field("custom_id", pa.string()),
        pa.field("source_file", pa.string()),
        pa.field("source_row", pa.int64()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        pa.field("id", pa.string()),
        pa.field("status", pa.int32()),
        pa.field("body", pa.large_string()),
        pa.field("error_class", pa.string()),
        pa.field("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why lines are left out.

    Attributes:
        code: what they are told.
        message: likewise, in words.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job that is ready to run.

    Attributes:
        store: its output.
        plan: its plan, shared with all runs of it.
        endpoint: that all lines are for.
        terms: whose it is.
    """

    store: Store
    plan: Plan
    endpoint: BatchEndpoint
    terms: Terms

    @property
    def file(self) -> InputFile:
        """Its input."""
        (file,) = self.plan.files
        return file

    @classmethod
    def begin(cls, store: Store, path: str, url: str, terms: Terms) -> "BatchJob":
        """Plan a job, or take over the plan that is there.

        Args:
            store: its output.
            path: of its input, which holds good lines alone.
            url: that the lines are for.
            terms: whose it is.

        Raises:
            JobError: the input or the output can't be used.
        """
        (footer,) = survey([parse_location(path)], None).footers
        mine = Plan(
            fingerprint={"endpoint": url, "keep": "custom_id: string"},
            files=(footer.file,),
            rows=(footer.file.rows,),
            unit_rows=UNIT_LINES,
            seed=secrets.randbits(63),
        )
        plan, _ = join_or_start(store, mine, unit_rows_given=True)
        return cls(store, plan, ENDPOINTS[url], terms)

    def lines(self, unit: Unit) -> list[BatchLine]:
        """Read the lines of a unit."""
        rows = (unit.first, unit.last)
        found = lines_of(self.file.path, self.file.index, rows)
        return [read_line(line, self.terms.limits.max_body_bytes) for line in found]

    def commit(
        self, unit: Unit, ids: Sequence[str], outcomes: Sequence[Outcome], trace: Trace
    ) -> Receipt:
        """Make the outcomes of a unit's lines its part, unless it has one."""
        rows = [
            {
                "custom_id": custom_id,
                "source_file": self.file.name,
                "source_row": unit.first + place,
                **{name: getattr(outcome, name) for name in SCHEMA.names if hasattr(outcome, name)},
            }
            for place, (custom_id, outcome) in enumerate(zip(ids, outcomes, strict=True))
        ]
        return commit(self.store, self.plan, unit, pa.Table.from_pylist(rows, SCHEMA), trace)


class BatchRun:
    """One run of a job.

    Args:
        job: what is run.
        answerer: who answers the lines.
        on_line: told of each line that is done, and whether it failed.
    """

    def __init__(self, job: BatchJob, answerer: Answerer, on_line: Callable[[bool], None]) -> None:
        self._job = job
        self._answerer = answerer
        self._on_line = on_line
        self._stopped: asyncio.Future[Stopped] = asyncio.get_running_loop().create_future()
        self._ledger = Ledger(job.plan)
        self._open: dict[Unit, tuple[int, int]] = {}

    @property
    def done(self) -> tuple[int, int]:
        """How many lines are done, and how many of them failed."""
        done = self._ledger.rows + sum(done for done, _ in self._open.values())
        failed = self._ledger.failed + sum(failed for _, failed in self._open.values())
        return done, failed

    def stop(self, why: Stopped) -> None:
        """Ask no more: lines that are not done are left out, and those on their way called back."""
        if not self._stopped.done():
            self._stopped.set_result(why)

    async def run(self) -> Ledger:
        """Compute and commit what is missing, and mark the job as complete.

        Raises:
            JobError, OSError: the output can't be used.
        """
        for receipt in await asyncio.to_thread(_committed, self._job):
            self._ledger.add(receipt)
        beside = asyncio.Semaphore(ceil(self._answerer.most / UNIT_LINES) + UNITS_BESIDE)

        async def one(unit: Unit) -> None:
            try:
                await self._unit(unit)
            finally:
                beside.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                for unit in list(self._ledger.missing()):
                    await beside.acquire()
                    tasks.create_task(one(unit))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        await asyncio.to_thread(finish, self._job.store, self._job.plan, self._ledger)
        return self._ledger

    async def _unit(self, unit: Unit) -> None:
        begun, self._open[unit] = time.time(), (0, 0)
        try:
            lines = await asyncio.to_thread(self._job.lines, unit)
            rows = range(unit.first, unit.last)
            answers = (self._line(unit, row, line) for row, line in zip(rows, lines, strict=True))
            answered = await asyncio.gather(*answers)
            seconds = histogram(took for _, took in answered)
            trace = Trace(begun, time.time(), "batches", seconds)
            ids, outcomes = [line.custom_id for line in lines], [outcome for outcome, _ in answered]
            receipt = await asyncio.to_thread(self._job.commit, unit, ids, outcomes, trace)
        finally:
            del self._open[unit]
        self._ledger.add(receipt)

    async def _line(self, unit: Unit, row: int, line: BatchLine) -> tuple[Outcome, float]:
        begun = time.perf_counter()
        outcome = await self._outcome(row, line)
        failed = outcome.error is not None
        done, others = self._open[unit]
        self._open[unit] = (done + 1, others + failed)
        self._on_line(failed)
        return outcome, time.perf_counter() - begun

    async def _outcome(self, row: int, line: BatchLine) -> Outcome:
        if self._stopped.done():
            return _left_out(self._stopped.result())
        if line.refusal is not None:
            return refused(line.refusal)
        job = self._job
        seed = row_seed(job.plan.seed, job.file.name, row)
        answer = asyncio.ensure_future(
            self._answerer.answer(job.endpoint, line.body, job.terms, seed)
        )
        either: set[asyncio.Future[Outcome] | asyncio.Future[Stopped]] = {answer, self._stopped}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else _left_out(self._stopped.result())
        finally:
            answer.cancel()


def _left_out(why: Stopped) -> Outcome:
    return left_out(why.code, why.message)


def _committed(job: BatchJob) -> list[Receipt]:
    return list(each_committed(job.store, job.plan))
