"""A process that is struck right before a chosen line of the code that commits.

Lines are counted from outside, by the interpreter's own trace hook, so that the code knows nothing
of it and no step can be forgotten: each line that a whole small job runs gets its turn.
"""

import errno
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

from pipelines import commit, local_store, plan, s3_store, storage

from .job import EXPECTED, SUCCESS, UNITS, Ours
from .processes import Outcome, child_signals, end, fork, nap, outcome
from .s3_faults import clients_of, configure_client, fetched
from .servers import client, s3_server
from .tally import Tally, tally

WATCHED = frozenset(module.__file__ for module in (commit, local_store, plan, s3_store, storage))
# Of the S3 client, how it puts an object in one request or in parts.
WATCHED_ELSEWHERE = {"_pipe_file", "_abort_mpu"}
DEADLINE_S = 60.0

How = Literal["SIGKILL", "ENOSPC", "EIO"]
Where = Literal["local", "s3"]


class Tripwire:
    """Counts lines, and strikes before one of them.

    Args:
        at: which, from 1; 0 strikes nowhere.
        strike: kills the process, or raises.
    """

    def __init__(self, at: int, strike: Callable[[], None]) -> None:
        self._at, self._strike = at, strike
        self._numbers = itertools.count(1)  # counts right in many threads, unlike +=
        self._s3fs = sys.modules["s3fs.core"].__file__

    def lines(self) -> int:
        """Give the number of lines so far."""
        return next(self._numbers) - 1

    def __enter__(self) -> Self:
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        elsewhere = code.co_filename == self._s3fs and code.co_name in WATCHED_ELSEWHERE
        return self._line if elsewhere or code.co_filename in WATCHED else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and next(self._numbers) == self._at:
            self._strike()
        return self._line


def kill() -> None:
    """End this process as nothing but the kernel can."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> None:
    """Fail as a disk does."""
    raise OSError(number, os.strerror(number))


STRIKES: dict[How, Callable[[], None]] = {
    "SIGKILL": kill,
    "ENOSPC": partial(fail, errno.ENOSPC),
    "EIO": partial(fail, errno.EIO),
}


def job(output: str, at: int, how: How, count: Path | None = None) -> None:
    """Run a job in this process, struck at a line; write how many lines it ran to `count`."""
    if output.startswith("s3://"):
        configure_client(multipart=True)
    ours = Ours()
    with Tripwire(at, STRIKES[how]) as wire:
        ours.begin(output)
        for unit in UNITS:
            ours.commit(output, unit, f"line {at}")
        ours.end(output)
        lines = wire.lines()
    if count:
        count.write_text(json.dumps(lines))


def ended(work: Callable[[], None]) -> Outcome:
    """Do some work in a child, and tell what became of it."""
    pid, limit = fork(work), time.monotonic() + DEADLINE_S
    while time.monotonic() < limit:
        if (what := outcome(pid)) is not None:
            return what
        nap(0.1)
    end(pid)
    raise TimeoutError(f"a child takes more than {DEADLINE_S} s")


class Place:
    """Where the outputs of trials are, and how they are looked at from outside."""

    def __init__(self, where: Where, stack: ExitStack) -> None:
        self._top = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._s3: Any = None
        if where == "s3":
            endpoint = stack.enter_context(s3_server())
            stack.enter_context(clients_of(endpoint))
            self._s3 = client(endpoint)

    def output(self, name: str) -> str:
        """Give a new, empty output."""
        if not self._s3:
            return str(self._top / name)
        self._s3.create_bucket(Bucket=f"line-{name}")
        return f"s3://line-{name}/out"

    def look(self, name: str) -> tuple[Tally, bool]:
        """Count an output's rows, and tell whether its end is marked."""
        if not self._s3:
            folder = self._top / name
            return tally(folder, EXPECTED), (folder / SUCCESS).is_file()
        with tempfile.TemporaryDirectory() as folder:
            return fetched(self._s3, f"line-{name}", Path(folder))

    def lines(self) -> int:
        """Count the lines of a job that nothing happens to."""
        count = self._top / "lines"
        assert ended(partial(job, self.output("0"), 0, "SIGKILL", count)) == "done"
        return int(json.loads(count.read_text()))


def run(where: Where, how: How, *, every: int = 1) -> dict[str, Any]:
    """Strike a job at every n-th line it runs, run it again, and give the figures.

    A job that is struck may be marked as complete only if it is, and the second run completes it.
    """
    started, figures = time.monotonic(), Counter[str]()
    with child_signals(), ExitStack() as stack:
        place = Place(where, stack)
        lines = place.lines()
        places = range(1, lines + 1, every)
        for at in places:
            figures += _trial(place, at, how)
    return {
        "row": 3,
        "test": f"failpoints, {where}, {how}",
        "seed": None,
        "trials": len(places),
        "lines": lines,
        "faults": {how: figures["struck"]},
        "lost": figures["lost"],
        "doubled": figures["doubled"],
        "bad_trials": figures["bad"],
        "seconds": round(time.monotonic() - started, 1),
        "ok": not figures["bad"],
    }


def _trial(place: Place, at: int, how: How) -> Counter[str]:
    output = place.output(str(at))
    what = ended(partial(_quiet, partial(job, output, at, how)))
    before, marked = place.look(str(at))
    early = marked and not before.good
    broken = bool(before.doubled or before.foreign or before.unreadable)
    again = ended(partial(job, output, 0, how))
    after, complete = place.look(str(at))
    return Counter(
        struck=int(what != "done"),
        lost=after.lost,
        doubled=after.doubled,
        bad=int(early or broken or again != "done" or not after.good or not complete),
    )


def _quiet(work: Callable[[], None]) -> None:
    """Do some work that is going to fail, and do not tell how."""
    with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123 - as a descriptor
        os.dup2(nothing.fileno(), 2)
    work()
