"""Run a job: plan it or join its plan, compute what is missing, mark it as complete."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from actors.progress import Snapshot, started_board

from .attempts import forget_all, noted
from .commit import Receipt, commit, each_committed, finish
from .error_limit import ErrorLimit
from .errors import JobError, JobInterrupted
from .isolation import isolated
from .job import JobSpec
from .ledger import Ledger
from .plan import Unit
from .ray_errors import explained
from .report import JobReport, Progress
from .setup import Job, set_up
from .stream import Stream, check_environment, quiet, receipts
from .trials import forget_committed
from .watch import ReceiptThread, check_snapshot

POLL_S = 0.5
# How long a job that is stopped may take to note which units it leaves.
ABANDON_S = 5.0

OnProgress = Callable[[Progress], None]


def run_job(spec: JobSpec, *, on_progress: OnProgress | None = None) -> JobReport:
    """Run a job to its end, or go on with one that was stopped. Ray must be initialized.

    Args:
        spec: the job.
        on_progress: called about twice a second, in this thread.

    Raises:
        JobInterrupted: Ctrl-C was pressed; what is committed stays.
        GemmarayError: the job can't run or go on.
    """
    started = time.monotonic()
    job = ready_job(spec)
    ledger = Ledger(job.plan)
    for receipt in each_committed(job.store, job.plan):
        ledger.add(receipt)
    run = Run(job, ledger, ErrorLimit(spec.max_error_rate), on_progress, started)
    pending: list[Unit] = []
    for unit in ledger.missing():
        if unit.rows:
            pending.append(unit)
        else:
            ledger.add(commit(job.store, job.plan, unit, job.schema.empty_table()))
    run.compute(job.stream(len(pending)), pending)
    finish(job.store, job.plan, ledger)
    return run.report()


def ready_job(spec: JobSpec) -> Job:
    """Set a job up on the cluster that this process is connected to.

    Raises:
        GemmarayError: the job can't run.
    """
    check_environment()
    if not ray.is_initialized():
        raise JobError("there is no Ray cluster: call ray.init() first")
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return set_up(spec, [node["Resources"] for node in nodes if node["Alive"]])


class Run:
    """One run of a job.

    Args:
        job: what is run.
        ledger: the parts that are there already; those that this run makes are added.
        limit: how many rows may fail; None is all of them.
        on_progress: as in run_job.
        started: when this run began, by time.monotonic.
    """

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        limit: ErrorLimit | None,
        on_progress: OnProgress | None,
        started: float,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._limit = limit
        self._on_progress = on_progress or (lambda _: None)
        self._started = started
        self._replicas = 0
        self._rows_before = ledger.rows
        self._tokens_before = ledger.prompt_tokens, ledger.completion_tokens

    def compute(self, stream: Stream, units: Sequence[Unit]) -> None:
        """Compute and commit units: first all at once, then those that end processes, alone.

        Raises:
            JobInterrupted: Ctrl-C was pressed.
            JobError: the job can't go on.
        """
        self._check_limit()
        if not units:
            return
        self._replicas = self._job.placement.most
        with quiet(), started_board(self._attempts()) as board, self._stopping(board):
            aside = self._in_stream(stream, units, board)
            self._alone(stream, sorted(aside), board)

    def report(self) -> JobReport:
        """Say what was done, also to those who watch."""
        job, ledger = self._job, self._ledger
        prompt_tokens, completion_tokens = self._tokens_before
        report = JobReport(
            rows_total=job.plan.total_rows,
            rows_done=ledger.rows,
            rows_failed=ledger.failed,
            prompt_tokens=ledger.prompt_tokens - prompt_tokens,
            completion_tokens=ledger.completion_tokens - completion_tokens,
            replicas=self._replicas,
            elapsed_s=time.monotonic() - self._started,
            output=job.store.url,
            parts=ledger.parts,
            rows_resumed=self._rows_before,
            chat=job.checkpoint.chat,
            plan=job.plan.id,
            errors=ledger.errors,
            quarantined=job.plan.quarantine,
        )
        self._on_progress(report)
        return report

    def _in_stream(self, stream: Stream, units: Sequence[Unit], board: Any) -> list[Unit]:
        """Stream units through all replicas, and give those that were given up."""
        aside: list[Unit] = []
        thread = ReceiptThread(partial(receipts, stream, units, board))
        try:
            while not thread.finished:
                results = thread.take(POLL_S)
                aside += (unit for unit in results if isinstance(unit, Unit))
                self._take([receipt for receipt in results if isinstance(receipt, Receipt)])
                self._poll(board, [_unit_of(result) for result in results])
        finally:
            thread.stop()
        return aside

    def _alone(self, stream: Stream, units: Sequence[Unit], board: Any) -> None:
        if not units:
            return
        poll = partial(self._poll, board, ())
        with closing(isolated(stream, units, board, poll)) as receipts_of_units:
            for receipt in receipts_of_units:
                self._take([receipt])
                poll()

    def _take(self, new: Sequence[Receipt]) -> None:
        for receipt in new:
            self._ledger.add(receipt)
        self._check_limit()

    def _check_limit(self) -> None:
        if self._limit:
            self._limit.check(self._ledger)

    def _poll(self, board: Any, done: Sequence[Unit]) -> None:
        """See what the replicas say, and tell those who watch."""
        snapshot: Snapshot = ray.get(board.read.remote([unit.key for unit in done]))
        check_snapshot(snapshot)
        self._on_progress(self._progress(snapshot))

    def _progress(self, snapshot: Snapshot) -> Progress:
        ledger = self._ledger
        # One that was computed again, since its answers were lost, may have its part already.
        left = [n for key, n in snapshot.units.items() if Unit.from_key(key) not in ledger]
        return Progress(
            rows_total=self._job.plan.total_rows,
            rows_done=ledger.rows + sum(done for done, _ in left),
            rows_failed=ledger.failed + sum(failed for _, failed in left),
            prompt_tokens=snapshot.prompt_tokens,
            completion_tokens=snapshot.output_tokens,
            replicas=snapshot.replicas,
            elapsed_s=time.monotonic() - self._started,
        )

    def _attempts(self) -> dict[str, int]:
        """Give what earlier runs noted, and clean up behind those that ended amid a commit."""
        forget_committed(self._job.store, self._ledger)
        notes = noted(self._job.store)
        stale = [unit for unit in notes if unit in self._ledger]
        forget_all(self._job.store, [(unit, range(1, notes.pop(unit) + 1)) for unit in stale])
        return {unit.key: count for unit, count in notes.items()}

    @contextmanager
    def _stopping(self, board: Any) -> Iterator[None]:
        """Leave in good order, whatever ends the work; say what it was in one message."""
        try:
            yield
        except KeyboardInterrupt:
            self._abandon(board)
            raise JobInterrupted(self._interrupted()) from None
        except RayError as error:
            with suppress(RayError):
                check_snapshot(ray.get(board.read.remote([])))
            self._abandon(board)
            raise explained(error) from error
        except JobError:
            self._abandon(board)
            raise

    def _abandon(self, board: Any) -> None:
        """Take back the notes of attempts that this run, not a row, brings to an end."""
        with suppress(RayError):
            left: dict[str, int] = ray.get(board.open.remote(), timeout=ABANDON_S)
            notes = [(Unit.from_key(key), [attempt]) for key, attempt in left.items()]
            forget_all(self._job.store, notes)

    def _interrupted(self) -> str:
        return (
            f"interrupted with {self._ledger.rows} of {self._job.plan.total_rows} rows committed "
            f"to {self._job.store.url}: run the same job again to go on from there"
        )


def _unit_of(result: Receipt | Unit) -> Unit:
    return result if isinstance(result, Unit) else Unit(*result.unit)
