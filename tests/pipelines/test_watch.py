import threading
import time
from collections.abc import Iterator

import pytest
import ray
from ray.data import DataContext

from actors.progress import Snapshot
from pipelines import InputError, JobError
from pipelines.commit import Receipt
from pipelines.plan import Unit
from pipelines.stopping import StopSignal, StreamStoppedError
from pipelines.stream import READS_PER_GROUP, UNITS_PER_READ, _context, _runs
from pipelines.watch import STOP_S, ReceiptThread, Result, check_snapshot

from .test_plan import plan

RECEIPT = Receipt("p", (0, 0, 9), ("f", "v", "d"), "a", 9, 0, 1, 1)


def drained(thread: ReceiptThread) -> list[Result]:
    taken: list[Result] = []
    while not thread.finished:
        taken += thread.take(10)
    return taken


def test_receipts_are_taken_until_the_end() -> None:
    results: list[Result] = [RECEIPT, Unit(0, 9, 12), RECEIPT]
    assert drained(ReceiptThread(lambda _: iter(results))) == results
    assert drained(ReceiptThread(lambda _: iter([]))) == []


def test_nothing_is_taken_when_nothing_comes() -> None:
    def slow(_: StopSignal) -> Iterator[Receipt]:
        stop.wait(10)
        yield RECEIPT

    stop = threading.Event()
    thread = ReceiptThread(slow)
    assert thread.take(0.01) == []
    assert not thread.finished
    stop.set()
    assert drained(thread) == [RECEIPT]


def test_what_ends_the_iteration_is_raised() -> None:
    def broken(_: StopSignal) -> Iterator[Receipt]:
        yield RECEIPT
        raise InputError("gone")

    with pytest.raises(InputError, match="gone"):
        drained(ReceiptThread(broken))


def test_a_stopped_thread_lets_go_of_the_iteration() -> None:
    ended = []

    def endless(_: StopSignal) -> Iterator[Receipt]:
        try:
            while True:
                yield RECEIPT
        finally:
            ended.append(True)

    ReceiptThread(endless).stop()
    assert ended == [True]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_stream_is_stopped_while_its_reader_waits() -> None:
    """Ray must not be shut down while a thread is in it: the process would crash."""

    def stuck(stop: StopSignal) -> Iterator[Receipt]:
        with DataContext.current(_context(stop)):
            dataset = ray.data.range(2).map(lambda _: time.sleep(600))
        try:
            yield from dataset.iter_batches()
        except BaseException as error:
            raised.append(error)
            raise

    raised: list[BaseException] = []
    thread = ReceiptThread(stuck)
    assert thread.take(3.0) == []
    begun = time.monotonic()
    thread.stop()
    assert time.monotonic() - begun < STOP_S
    assert [type(error) for error in raised] == [StreamStoppedError]
    with pytest.raises(StreamStoppedError):
        drained(thread)


def snapshot(fatal: str | None) -> Snapshot:
    return Snapshot(replicas=1, prompt_tokens=0, output_tokens=0, units={}, fatal=fatal)


def test_a_job_goes_on_while_it_can() -> None:
    check_snapshot(snapshot(None))


def test_a_reason_of_the_replicas_stops_the_job() -> None:
    with pytest.raises(JobError, match=r"^no memory$"):
        check_snapshot(snapshot("no memory"))


def test_runs_of_units_have_no_gaps_and_one_file() -> None:
    job = plan(1000, 1000)
    units = [Unit(0, 0, 5), Unit(0, 5, 10), Unit(0, 15, 20), Unit(1, 0, 5), Unit(1, 5, 7)]
    assert list(_runs(units, job)) == [units[:2], units[2:3], units[3:]]
    many = [Unit(0, n, n + 1) for n in range(UNITS_PER_READ + 3)]
    assert [len(run) for run in _runs(many, job)] == [UNITS_PER_READ, 3]
    assert list(_runs([], job)) == []


def test_runs_are_longer_where_row_groups_are_large() -> None:
    job = plan(100_000)
    runs = list(_runs(job.units(), job))
    assert len(runs) == READS_PER_GROUP
    assert {len(run) for run in runs} == {100_000 // job.unit_rows // READS_PER_GROUP}
