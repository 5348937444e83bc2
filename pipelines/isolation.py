"""Units that were set aside, computed one at a time by a replica of their own.

One that survives, since it was other units or the machines that ended its processes, is committed
as any other. One that holds a row which ends its process is bisected: its other rows keep their
answers, and the row itself becomes an error row. Everything that is found out is noted, so a run
that is stopped goes on.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from actors.replica import MAX_ATTEMPTS, Replica
from actors.trace import Trace

from .bisection import Piece, bisect
from .commit import NO_TRACE, Receipt
from .errors import JobError, RowKilledProcess
from .packet import (
    ANSWERS,
    file_name_of,
    rows_of,
    sliced,
    trace_of,
    unit_label,
    unit_of,
    unpacked,
    with_answers,
)
from .plan import Unit
from .sink import commit_packet
from .stream import Stream, read_task
from .trials import Trials

POLL_S = 0.5
# A replica that dies while it starts is started again, this often in a row.
STARTS = 3
# When so many rows have each ended processes of their own, it is hardly the rows.
MOST_CONDEMNED = 100
DEATHS = (RayActorError, OutOfMemoryError)


class Alone(Protocol):
    """Something that computes one packet in a process with nothing else in it."""

    def compute(self, packet: pa.Table) -> pa.Table | None:
        """Give the packet with its answers; None when the process ended."""
        ...


class Isolation:
    """Computes units alone.

    Args:
        stream: the job.
        alone: what computes packets.
    """

    def __init__(self, stream: Stream, alone: Alone) -> None:
        assert stream.work.sink is not None
        self._stream = stream
        self._sink = stream.work.sink
        self._alone = alone
        self._condemned = 0

    def commit(self, packet: pa.Table) -> Receipt:
        """Compute and commit a unit, whatever its rows do.

        Raises:
            JobError: so many rows ended processes that something else must be wrong.
        """
        trials = Trials(self._sink.store, unit_of(packet))
        count = len(rows_of(packet))

        def attempt(low: int, high: int) -> pa.Table | None:
            return self._attempt(trials, packet, low, high)

        pieces = bisect(0, count, attempt) if count else ()
        answered = [self._answers(trials, packet, piece) for piece in pieces]
        whole = _joined(packet, answered or [self._stream.work.answered(packet, {}, NO_TRACE)])
        receipt = commit_packet(self._sink, whole)
        trials.clear()
        return receipt

    def _attempt(self, trials: Trials, packet: pa.Table, low: int, high: int) -> pa.Table | None:
        """Try some rows until they survive or have ended their process often enough."""
        part = sliced(packet, low, high)
        rows = rows_of(part)
        first, last = rows[0], rows[-1] + 1
        known = trials.answers(first, last)
        if known is not None and rows_of(known) == rows:
            return known
        while not trials.condemned(first, last):
            number = trials.begin(first, last)
            try:
                answered = self._alone.compute(part)
            except BaseException:
                trials.withdraw(first, last, number)
                raise
            if answered is not None:
                if rows == rows_of(packet):
                    trials.withdraw(first, last, number)  # the unit's part will keep the answers
                else:
                    trials.survived(first, last, number, answered)
                return answered
            trials.ended(first, last, number)
            if len(rows) == 1 and trials.condemned(first, last):
                self._count_condemned(packet)
        return None

    def _count_condemned(self, packet: pa.Table) -> None:
        self._condemned += 1
        if self._condemned >= MOST_CONDEMNED:
            raise JobError(
                f"{MOST_CONDEMNED} rows have each ended every process that computed them alone, "
                f"the last in {unit_label(file_name_of(packet), unit_of(packet))}: that is hardly "
                "the rows; see the logs of Ray's workers, then run the same job again to go on "
                "from here"
            )

    def _answers(self, trials: Trials, packet: pa.Table, piece: Piece[pa.Table]) -> pa.Table:
        """Give a piece's answers; a row that was given up gets its error."""
        if piece.answers is not None:
            return piece.answers
        row = sliced(packet, piece.first, piece.last)
        times = trials.ends(rows_of(row)[0])
        error = RowKilledProcess(f"the process that computed this row alone ended, {times} times")
        return self._stream.work.answered(row, {0: error}, NO_TRACE)


def isolated(
    stream: Stream, units: Sequence[Unit], board: Any, poll: Callable[[], None]
) -> Generator[Receipt, None, None]:
    """Compute and commit units that were set aside, one after the other.

    Args:
        stream: the job.
        units: what the stream gave up.
        board: a handle of the ProgressBoard actor.
        poll: called about twice a second while this waits; may raise to end it.

    Raises:
        JobError: rows end one process after the other, or no replica comes up.
        ray.exceptions.RayTaskError: reading or computing failed; its cause is what was raised.
    """
    alone = _OwnReplica(stream, board, poll)
    isolation = Isolation(stream, alone)
    try:
        for unit in units:
            yield isolation.commit(alone.wait(read_task(stream, unit, board)))
    finally:
        alone.close()


class _OwnReplica:
    """A replica outside Ray Data's pool, made anew when it has died."""

    def __init__(self, stream: Stream, board: Any, poll: Callable[[], None]) -> None:
        self._stream = stream
        self._board = board
        self._poll = poll
        self._actor: Any = None

    def compute(self, packet: pa.Table) -> pa.Table | None:
        """Give the packet with its answers; None when the process ended."""
        actor = self._started()
        try:
            return self.wait(actor.compute.remote(packet, MAX_ATTEMPTS))
        except DEATHS:
            self.close()
            return None

    def wait(self, result: Any) -> Any:
        """Wait for a task's result."""
        while not ray.wait([result], timeout=POLL_S)[0]:
            self._poll()
        return ray.get(result)

    def close(self) -> None:
        """End the replica."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _started(self) -> Any:
        """Give a replica that is up; its deaths until then are no row's fault."""
        deaths = 0
        while self._actor is None:
            self._actor = self._made()
            try:
                self.wait(self._actor.ready.remote())
            except DEATHS:
                self.close()
                deaths += 1
                if deaths == STARTS:
                    raise
        return self._actor

    def _made(self) -> Any:
        placement = self._stream.placement
        kind: Any = ray.remote(Replica)
        return kind.options(
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            max_restarts=0,
            max_task_retries=0,
        ).remote(self._stream.engine, self._stream.work, self._board)


def _joined(packet: pa.Table, pieces: Sequence[pa.Table]) -> pa.Table:
    """Put the answers of all pieces into the packet that they were cut from."""
    answers = pa.concat_tables([unpacked(piece, ANSWERS) for piece in pieces])
    traces = [trace_of(piece) for piece in pieces]
    real = [trace for trace in traces if trace.replica] or traces
    latencies = [0] * max(len(trace.latencies) for trace in traces)
    for trace in traces:
        for place, count in enumerate(trace.latencies):
            latencies[place] += count
    joined = Trace(
        begun=min(trace.begun for trace in real),
        finished=max(trace.finished for trace in real),
        replica=real[-1].replica,
        latencies=tuple(latencies),
        attempt=MAX_ATTEMPTS,
    )
    return with_answers(packet, answers, joined)
