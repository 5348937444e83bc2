"""Run a job: plan it or join its plan, compute what is missing, mark it as complete."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import ray
from ray.exceptions import RayError

from actors.progress import Snapshot, start_board

from .commit import Receipt, commit, committed, finish
from .errors import JobError, JobInterrupted
from .job import JobSpec
from .packet import unit_label
from .plan import Unit
from .report import JobReport, Progress
from .setup import Job, set_up
from .stream import check_environment, quiet, receipts
from .watch import ReceiptThread, check_snapshot, explained

POLL_S = 0.5

OnProgress = Callable[[Progress], None]
Receipts = dict[Unit, Receipt]


def run_job(spec: JobSpec, *, on_progress: OnProgress | None = None) -> JobReport:
    """Run a job to its end, or go on with one that was stopped. Ray must be initialized.

    Args:
        spec: the job.
        on_progress: called about twice a second, in this thread.

    Raises:
        JobInterrupted: Ctrl-C was pressed; what is committed stays.
        GemmarayError: the job can't run or go on.
    """
    return _Run(spec, on_progress or (lambda _: None)).report()


class _Run:
    """One run of a job."""

    def __init__(self, spec: JobSpec, on_progress: OnProgress) -> None:
        self._started = time.monotonic()
        check_environment()
        if not ray.is_initialized():
            raise JobError("there is no Ray cluster: call ray.init() first")
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        self._job: Job = set_up(spec, [node["Resources"] for node in nodes if node["Alive"]])
        self._on_progress = on_progress
        self._receipts: Receipts = committed(self._job.store, self._job.plan)
        self._resumed = frozenset(self._receipts)

    def report(self) -> JobReport:
        """Do what is left to do, and say what was done."""
        job = self._job
        pending = [unit for unit in job.plan.units() if unit not in self._receipts]
        for unit in pending:
            if unit.rows == 0:
                empty = job.schema.empty_table()
                self._receipts[unit] = commit(job.store, job.plan, unit, empty)
        try:
            self._compute([unit for unit in pending if unit.rows])
        except KeyboardInterrupt:
            raise JobInterrupted(self._interrupted()) from None
        finish(job.store, job.plan, self._receipts)
        report = self._finished()
        self._on_progress(report)
        return report

    def _compute(self, units: Sequence[Unit]) -> None:
        if not units:
            return
        board = start_board()
        stream = self._job.stream(len(units))
        with quiet():
            thread = ReceiptThread(partial(receipts, stream, units, board))
            try:
                while not thread.finished:
                    new = [self._take(receipt) for receipt in thread.take(POLL_S)]
                    snapshot = ray.get(board.read.remote([self._label(unit) for unit in new]))
                    check_snapshot(snapshot)
                    self._on_progress(self._progress(snapshot))
            except RayError as error:
                check_snapshot(ray.get(board.read.remote([])))
                raise explained(error) from error
            finally:
                thread.stop()

    def _take(self, receipt: Receipt) -> Unit:
        unit = Unit(*receipt.unit)
        self._receipts[unit] = receipt
        return unit

    def _label(self, unit: Unit) -> str:
        return unit_label(self._job.plan.files[unit.file].name, unit)

    def _progress(self, snapshot: Snapshot) -> Progress:
        done, failed = _rows(self._receipts.values())
        committed_units = {self._label(unit) for unit in self._receipts}
        open_units = [rows for name, rows in snapshot.units.items() if name not in committed_units]
        return Progress(
            rows_total=self._job.plan.total_rows,
            rows_done=done + sum(rows for rows, _ in open_units),
            rows_failed=failed + sum(rows for _, rows in open_units),
            prompt_tokens=snapshot.prompt_tokens,
            completion_tokens=snapshot.output_tokens,
            replicas=snapshot.replicas,
            elapsed_s=time.monotonic() - self._started,
        )

    def _finished(self) -> JobReport:
        job = self._job
        done, failed = _rows(self._receipts.values())
        new = [receipt for unit, receipt in self._receipts.items() if unit not in self._resumed]
        return JobReport(
            rows_total=job.plan.total_rows,
            rows_done=done,
            rows_failed=failed,
            prompt_tokens=sum(receipt.prompt_tokens for receipt in new),
            completion_tokens=sum(receipt.completion_tokens for receipt in new),
            replicas=job.placement.most if any(receipt.rows for receipt in new) else 0,
            elapsed_s=time.monotonic() - self._started,
            output=job.store.url,
            parts=len(self._receipts),
            rows_resumed=sum(unit.rows for unit in self._resumed),
            chat=job.checkpoint.chat,
            plan=job.plan.id,
            quarantined=job.plan.quarantine,
        )

    def _interrupted(self) -> str:
        plan = self._job.plan
        done, _ = _rows(self._receipts.values())
        return (
            f"interrupted with {done} of {plan.total_rows} rows committed to "
            f"{self._job.store.url}: run the same job again to go on from there"
        )


def _rows(taken: Iterable[Receipt]) -> tuple[int, int]:
    counts = [(receipt.rows, receipt.failed) for receipt in taken]
    return sum(rows for rows, _ in counts), sum(failed for _, failed in counts)
