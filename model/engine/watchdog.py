"""A group of ranks that dies dies whole, and soon.

A rank that dies or hangs leaves the others waiting in a collective. So a thread of the leader
(rank 0's process) listens to the other ranks, and ends the group when one of them

- dies or says what it raised: noticed at once;
- is silent for `SILENCE_S`: it is stopped, or its machine has no time for it at all;
- takes part in a step that takes far longer than steps like it, see `pace`.

To end the group is to kill the other ranks. That frees the leader too: its collective fails, on
gloo because the connections break, on NCCL because the group is aborted. The step it was in then
raises EngineDeadError. A leader that even this does not free can't be helped from within: a thread
can't be interrupted amid a call into the driver. What then becomes of the process is not for a
library to decide: `on_stuck` is called. A worker process does well to exit there; see
actors/replica.py. Without it, an error is logged.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait

from model.errors import EngineDeadError, GemmarayError

from .child import Child, RankDiedError
from .pace import LEAST_S, Pace
from .words import BEAT

logger = logging.getLogger(__name__)

# From the start of the processes to the last tensor of the checkpoint, wherever it lies.
START_TIMEOUT_S = 1800.0
# Until the first word: a new interpreter that imports torch from a cold disk.
FIRST_WORD_TIMEOUT_S = 120.0
SILENCE_S = 10.0
TICK_S = 0.25
# How long the others may take to tell the cause, once one reports what may be a consequence.
HEARING_S = 0.3
# How long the leader, whose collective has failed, waits to learn why.
CAUSE_TIMEOUT_S = 2.0
# How long the leader may take to notice that the others are gone: by itself, and after the abort.
RELEASE_S = 0.5
STUCK_S = 5.0

OnStuck = Callable[[EngineDeadError], None]


@dataclass(slots=True)
class _Work:
    """What all ranks do together now, and since when (monotonic seconds)."""

    tokens: int
    since: float


class Watchdog:
    """Starts the ranks, watches over them, and ends them.

    They are started by its thread: the kernel kills a process that asks for it (see
    `rank_process`) when the thread that started it ends, and this one lives as long as they may.

    Args:
        spawn: starts the ranks.
        abort: breaks off the leader's collective, as far as its transport can.
        on_stuck: called, in the watchdog's thread, when the leader can't be freed.

    Raises on construction: what `spawn` raises.
    """

    def __init__(
        self,
        spawn: Callable[[], Sequence[Child]],
        abort: Callable[[], None],
        on_stuck: OnStuck | None,
    ) -> None:
        self.children: Sequence[Child] = ()
        self._abort = abort
        self._on_stuck = on_stuck or _log_stuck
        self._pace = Pace()
        self._work: _Work | None = None
        # Guards what follows, and wakes who waits for a change of it or of _work.
        self._changed = threading.Condition()
        self._said: set[tuple[int, str]] = set()
        self._failure: GemmarayError | None = None
        self._ending = False
        self._ears, self._bell = Pipe(duplex=False)
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(spawn, started), name="rank-watchdog", daemon=True
        )
        self._thread.start()
        started.result()

    # -- the leader's thread -----------------------------------------------------------------------

    def wait_for(self, word: str) -> None:
        """Wait until every rank has said a word.

        Raises:
            GemmarayError: what a rank raised; EngineDeadError: one died, or took too long.
        """
        expected = {(child.rank, word) for child in self.children}
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure is not None or expected <= self._said, START_TIMEOUT_S
            )
            self.check()
            if late := sorted(rank for rank, _ in expected - self._said):
                raise EngineDeadError(f"ranks {late} were not {word} after {START_TIMEOUT_S:g} s")

    @contextlib.contextmanager
    def working(self, tokens: int) -> Iterator[None]:
        """Watch over a piece of work that all ranks do together; `tokens` is its size.

        Raises:
            GemmarayError: why the group was ended, whatever the work itself has raised or made.
        """
        self.check()
        work = self._work = _Work(tokens, time.monotonic())
        try:
            yield
        except Exception as error:
            # A broken connection shows in the collective before its reason is known here.
            with self._changed:
                self._changed.wait_for(lambda: self._failure is not None, CAUSE_TIMEOUT_S)
            if self._failure is not None:
                raise self._failure from error
            raise
        finally:
            with self._changed:
                self._work = None
                self._changed.notify_all()
        self.check()
        self._pace.add(tokens, time.monotonic() - work.since)

    def check(self) -> None:
        """Raise why the group was ended, if it was."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """End the ranks and wait until they are gone."""
        self._ending = True
        with contextlib.suppress(OSError):
            self._bell.send(None)
        if threading.current_thread() is not self._thread:  # a garbage collection may run there
            self._thread.join()

    # -- the watchdog's thread ---------------------------------------------------------------------

    def _main(self, spawn: Callable[[], Sequence[Child]], started: Future[None]) -> None:
        try:
            self.children = spawn()
        except BaseException as error:  # noqa: BLE001 - raised again by the constructor
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            failure = self._watch()
            if failure is not None:
                self._end_group(failure)
        finally:
            for child in self.children:
                child.end()

    def _watch(self) -> GemmarayError | None:
        """Return the first failure; None when the group is to end without one."""
        deadlines = dict.fromkeys(self.children, time.monotonic() + FIRST_WORD_TIMEOUT_S)
        while not self._ending:
            before = time.monotonic()
            failures = self._listen(deadlines, TICK_S)
            now = time.monotonic()
            if failures:
                time.sleep(HEARING_S)
                return min(failures + self._listen(deadlines, 0.0), key=_remoteness)
            if now - before > SILENCE_S / 2:
                # We were stopped ourselves, perhaps with all the others: nobody is late.
                deadlines = {child: max(t, now + SILENCE_S) for child, t in deadlines.items()}
                if (work := self._work) is not None:
                    work.since += now - before
            elif (failure := self._overdue(deadlines, now)) is not None:
                return failure
            for child in deadlines:
                if child.stopped:  # it may stand still before its first word, which has longer
                    deadlines[child] = min(deadlines[child], now + SILENCE_S)
        return None

    def _listen(self, deadlines: dict[Child, float], timeout_s: float) -> list[GemmarayError]:
        """Hear what the ranks say; return what has failed, and listen no more to who said so."""
        ready = wait([self._ears, *(child.pipe for child in deadlines)], timeout_s)
        failures: list[GemmarayError] = []
        for child in [child for child in deadlines if child.pipe in ready]:
            deadlines[child] = time.monotonic() + SILENCE_S
            failure = self._hear(child)
            if failure is not None:
                del deadlines[child]
                failures.append(failure)
        return failures

    def _hear(self, child: Child) -> GemmarayError | None:
        """Take all that a rank has said up to now; return how it failed, if it did."""
        try:
            while child.pipe.poll():
                word = child.pipe.recv()
                if isinstance(word, GemmarayError):
                    return word
                if word != BEAT:
                    with self._changed:
                        self._said.add((child.rank, word))
                        self._changed.notify_all()
        except (EOFError, OSError):
            return child.epitaph()
        return None

    def _overdue(self, deadlines: dict[Child, float], now: float) -> EngineDeadError | None:
        for child, deadline in deadlines.items():
            if now > deadline:
                return EngineDeadError(
                    f"rank {child.rank} gave no sign of life for {SILENCE_S:g} s: it was stopped, "
                    "or the machine is overloaded"
                )
        work = self._work
        if work is not None and now - work.since > LEAST_S:
            limit = self._pace.limit(work.tokens)
            if now - work.since > limit:
                return EngineDeadError(
                    f"a step of {work.tokens} tokens did not end within {limit:.1f} s, far longer "
                    "than those before it: the ranks wait for each other"
                )
        return None

    def _end_group(self, failure: GemmarayError) -> None:
        for child in self.children:
            child.kill()
        with self._changed:
            self._failure = failure
            self._changed.notify_all()
        if self._released(RELEASE_S):
            return
        self._abort()
        if not self._released(STUCK_S):
            self._on_stuck(
                EngineDeadError(f"{failure}; rank 0 hangs too, in process {os.getpid()}")
            )

    def _released(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._work is None, timeout_s)


def _remoteness(failure: GemmarayError) -> int:
    """Order failures: what a user can mend, a death, and last what may be the effect of either."""
    if not isinstance(failure, EngineDeadError):
        return 0
    return 1 if isinstance(failure, RankDiedError) else 2


def _log_stuck(failure: EngineDeadError) -> None:
    logger.critical("%s: nothing here can free it; end this process", failure)
