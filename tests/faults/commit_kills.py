"""Two runs of one job at once, on a local folder, whose processes are killed and stopped."""

import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.plan import Unit

from .job import EXPECTED, SUCCESS, UNITS, WAYS, Way
from .processes import Outcome, child_signals, end, fork, nap, outcome
from .tally import Tally, parts, tally

RUNS = 2
WORKERS = 2  # processes of each run at a time
KILLED, STOPPED = 0.40, 0.13  # of all attempts
TAMED_AFTER = 6  # attempts at a step before it is left in peace
DEADLINE_S = 60.0

Step = tuple[str, Unit | None]
Stamp = tuple[int, int, int]


class Pace:
    """How long a step takes here: strikes are spread over a little more than that."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque([0.01], maxlen=200)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def moment(self, rng: random.Random) -> float:
        """Draw when to strike, in seconds after the start."""
        return rng.uniform(0, 1.2 * statistics.median(self._seconds))


class Run:
    """One run: its steps in three stages, each of which waits for the one before."""

    def __init__(self, rng: random.Random) -> None:
        units: list[Step] = [("commit", unit) for unit in UNITS]
        rng.shuffle(units)
        self._stages: deque[list[Step]] = deque([[("begin", None)], units, [("end", None)]])
        self.todo: list[Step] = []
        self.busy = 0
        self.attempts: Counter[Step] = Counter()

    def next(self) -> Step | None:
        """Give the next step, if there is one and somebody to do it."""
        if not self.todo and not self.busy and self._stages:
            self.todo = self._stages.popleft()
        return self.todo.pop() if self.todo and self.busy < WORKERS else None


@dataclass
class Attempt:
    """A process at work on a step.

    Attributes:
        strike: what strikes it; None once it was sent, or if nothing does.
        due: when that, or its continuation, is sent.
        zombie: it was stopped, and its run has given it up.
    """

    run: Run
    step: Step
    started: float
    strike: signal.Signals | None = None
    due: float = inf
    zombie: bool = False


class Trial:
    """One job, from nothing to both runs' ends and the last zombie's."""

    def __init__(self, way: Way, folder: Path, rng: random.Random, pace: Pace) -> None:
        self._way, self._folder, self._rng, self._pace = way, folder, rng, pace
        self._runs = [Run(rng) for _ in range(RUNS)]
        self._live: dict[int, Attempt] = {}
        self._stamps: dict[str, Stamp] = {}
        self.delivered: Counter[str] = Counter()

    def finish(self) -> None:
        """Run it.

        Raises:
            TimeoutError: it does not come to an end.
        """
        limit = time.monotonic() + DEADLINE_S
        try:
            while self._start_what_can_be() or self._live:
                self._strike()
                nap(min(0.05, *(a.due - time.monotonic() for a in self._live.values())))
                self._reap()
                self._look_for_changes()
                if time.monotonic() > limit:
                    raise TimeoutError(f"{self._folder}: a trial takes more than {DEADLINE_S} s")
        finally:
            for pid in self._live:
                end(pid)

    def _start_what_can_be(self) -> bool:
        started = False
        for number, run in enumerate(self._runs):
            while (step := run.next()) is not None:
                run.busy += 1
                run.attempts[step] += 1
                self._start(run, step, f"run {number} attempt {run.attempts[step]}")
                started = True
        return started

    def _start(self, run: Run, step: Step, name: str) -> None:
        what, unit = step
        folder = str(self._folder)
        work = (
            partial(self._way.commit, folder, unit, name)
            if unit
            else partial(getattr(self._way, what), folder)
        )
        attempt = Attempt(run, step, time.monotonic())
        fate = self._rng.random()
        if run.attempts[step] < TAMED_AFTER and fate < KILLED + STOPPED:
            attempt.strike = signal.SIGKILL if fate < KILLED else signal.SIGSTOP
            attempt.due = attempt.started + self._pace.moment(self._rng)
        self._live[fork(work)] = attempt
        self.delivered["processes"] += 1

    def _strike(self) -> None:
        now = time.monotonic()
        for pid, attempt in self._live.items():
            if attempt.due <= now and attempt.strike is not None:
                os.kill(pid, attempt.strike)  # it was not reaped yet, so the id is still its own
                attempt.strike, attempt.due = None, inf

    def _reap(self) -> None:
        for pid, attempt in list(self._live.items()):
            what = outcome(pid)
            if what is not None:
                self._take(pid, attempt, what)

    def _take(self, pid: int, attempt: Attempt, what: Outcome) -> None:
        run = attempt.run
        if what == "stopped":
            self.delivered["zombies"] += 1
            attempt.zombie = True
        else:
            del self._live[pid]
            self.delivered[what] += 1
            if attempt.zombie:
                return
        run.busy -= 1
        if what in {"killed", "stopped"}:
            run.todo.append(attempt.step)
            return
        if attempt.due == inf:
            self._pace.add(time.monotonic() - attempt.started)
        self._wake(attempt)

    def _wake(self, done: Attempt) -> None:
        """Continue those who were given up at a step that another has done by now."""
        for attempt in self._live.values():
            if attempt.zombie and attempt.run is done.run and attempt.step == done.step:
                attempt.strike = signal.SIGCONT
                attempt.due = time.monotonic() + 3 * self._pace.moment(self._rng)

    def _look_for_changes(self) -> None:
        """A part that was there once is never touched again."""
        for path in parts(self._folder):
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._stamps.setdefault(path.name, stamp) != stamp:
                self.delivered["changed"] += 1
                self._stamps[path.name] = stamp


class Verdict(NamedTuple):
    """What a trial left behind."""

    tally: Tally
    whole: bool


def judge(folder: Path, trial: Trial, *, marked: bool) -> Verdict:
    """Count a trial's rows; `marked`: its end has to be marked."""
    counted = tally(folder, EXPECTED)
    ended = (folder / SUCCESS).is_file() or not marked
    clean = not trial.delivered["failed"] and not trial.delivered["changed"]
    return Verdict(counted, counted.good and ended and clean)


def run(way: str, trials: int, seed: int, *, until_bad: bool = False) -> dict[str, Any]:
    """Run trials, and give their figures.

    Args:
        way: one of WAYS.
        trials: how many.
        seed: trial i draws from (seed, i).
        until_bad: stop at the first that loses or doubles a row.
    """
    started, pace = time.monotonic(), Pace()
    delivered: Counter[str] = Counter()
    verdicts: list[Verdict] = []
    with child_signals(), tempfile.TemporaryDirectory() as top:
        for number in range(trials):
            folder = Path(top, str(number))
            trial = Trial(WAYS[way], folder, random.Random(f"{seed}/{number}"), pace)
            trial.finish()
            delivered += trial.delivered
            verdicts.append(judge(folder, trial, marked=way == "link"))
            if until_bad and not verdicts[-1].tally.good:
                break
    bad = sum(not verdict.whole for verdict in verdicts)
    found = any(not verdict.tally.good for verdict in verdicts)
    return {
        "row": 1,
        "test": f"kills and zombies, {way}",
        "seed": seed,
        "trials": len(verdicts),
        "faults": {"SIGKILL": delivered["killed"], "zombies": delivered["zombies"]},
        "lost": sum(verdict.tally.lost for verdict in verdicts),
        "doubled": sum(verdict.tally.doubled for verdict in verdicts),
        "bad_trials": bad,
        "processes": delivered["processes"],
        "parts_changed": delivered["changed"],
        "processes_failed": delivered["failed"],
        "unreadable": sum(verdict.tally.unreadable for verdict in verdicts),
        "seconds": round(time.monotonic() - started, 1),
        "ok": found if way != "link" else not bad,
    }
