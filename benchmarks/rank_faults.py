"""Ranks that are killed, stopped or raise at random points: how soon the group ends, and whole.

    python benchmarks/rank_faults.py --kill 50 --stop 50 --raise 20 --seed 1

Each trial builds an engine of two ranks and strikes rank 1 from outside, by a signal: at a random
moment while it starts and loads, amid prompts, or amid answers. What counts is the time from the
signal to the EngineDeadError, and that no process of the group is left. A trial that takes a minute
prints where it hangs and ends the script. The status is 1 if a fault was not delivered, took longer
than its bound, or left an orphan.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.checkpoints import SHAPES, ensure
from benchmarks.measure import machine
from benchmarks.report import append
from benchmarks.workloads import FIRST_ID, LAST_ID
from model import Engine, EngineConfig, EngineDeadError, SamplingParams
from model.engine import child
from model.errors import GemmarayError

PHASES = ("load", "prefill", "decode")
# Prompt and answer of the requests of a phase, in tokens.
LENGTHS = {"prefill": (200, 1), "decode": (4, 400)}
WORKING_S = 0.5  # a signal amid prompts or answers comes within so much of their beginning
HANGS_S = 60.0
GONE_S = 1.0  # how long a process that was killed may stay in the table of processes


class Fault(NamedTuple):
    """A way to fail: the signal that brings it about, and how soon the error has to come."""

    signal: signal.Signals
    bound_s: float


FAULTS = {
    "kill": Fault(signal.SIGKILL, 2.0),
    "stop": Fault(signal.SIGSTOP, 15.0),
    "raise": Fault(signal.SIGUSR1, 2.0),
}


class Trial(NamedTuple):
    """What one fault did.

    Attributes:
        phase: that it was meant for.
        delay_s: from the beginning of the phase to the signal.
        delivered: whether the signal was sent to a rank.
        seconds: from the signal to the error; None if there was none.
        orphans: processes left behind.
    """

    phase: str
    delay_s: float
    delivered: bool
    seconds: float | None
    orphans: int

    def misses(self, bound_s: float) -> bool:
        """Whether it did not end as it has to."""
        return self.seconds is None or self.seconds > bound_s or self.orphans > 0


class Strike:
    """Sends a signal to one child of this process, from a thread, some time after it is armed.

    Attributes:
        at: when it was sent (monotonic seconds); None if there was nobody to send it to.
    """

    def __init__(self, number: signal.Signals, known: set[int]) -> None:
        self.at: float | None = None
        self._signal = number
        self._known = known
        self._thread: threading.Thread | None = None

    def arm(self, delay_s: float) -> None:
        """Begin to wait for the child, then for so long."""
        self._thread = threading.Thread(target=self._run, args=(delay_s,))
        self._thread.start()

    def join(self) -> None:
        """Wait until it is over."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, delay_s: float) -> None:
        deadline = time.monotonic() + HANGS_S / 2
        while not (ranks := children() - self._known):
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)
        time.sleep(delay_s)
        with contextlib.suppress(ProcessLookupError):
            now = time.monotonic()
            os.kill(ranks.pop(), self._signal)
            self.at = now


def children() -> set[int]:
    """Return the processes that this one has started."""
    return {process.pid for process in psutil.Process().children()}


def requests(phase: str, rng: random.Random) -> tuple[list[list[int]], SamplingParams]:
    """Draw requests that are nearly all prompt, or nearly all answer."""
    prompt, answer = LENGTHS[phase]
    prompts = [[rng.randrange(FIRST_ID, LAST_ID) for _ in range(prompt)] for _ in range(4)]
    return prompts, SamplingParams(max_tokens=answer, ignore_eos=True)


def attempt(config: EngineConfig, fault: Fault, phase: str, delay_s: float, seed: int) -> Trial:
    """Run an engine into one fault."""
    known = children()
    rng = random.Random(seed)
    strike = Strike(fault.signal, known)
    ended: float | None = None
    with watched():
        try:
            if phase == "load":
                strike.arm(delay_s)
            with Engine(config) as engine:
                if phase != "load":
                    strike.arm(delay_s)
                while strike.at is None or time.monotonic() < strike.at + 2 * fault.bound_s:
                    engine.generate(*requests("decode" if phase == "load" else phase, rng))
        except EngineDeadError:
            ended = time.monotonic()
        strike.join()
    seconds = None if ended is None or strike.at is None else ended - strike.at
    return Trial(phase, delay_s, strike.at is not None, seconds, len(left(known)))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """End the script if what it does takes a minute."""
    faulthandler.dump_traceback_later(HANGS_S, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def left(known: set[int]) -> set[int]:
    """Return the children that are there and were not; end them, so that each is counted once."""
    deadline = time.monotonic() + GONE_S
    while (orphans := children() - known) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    return orphans


def load_seconds(config: EngineConfig) -> float:
    """Build an engine undisturbed, and say how long that takes."""
    started = time.monotonic()
    with watched(), Engine(config):
        return time.monotonic() - started


def measure(
    config: EngineConfig, counts: dict[str, int], rng: random.Random
) -> dict[str, list[Trial]]:
    """Run all trials, of each kind as many in each phase as the division allows."""
    trials: dict[str, list[Trial]] = {}
    with mock.patch.object(child, "PROGRAM", "benchmarks.raising_rank"):
        load_s = load_seconds(config)
        for how in [how for how, count in counts.items() if count]:
            trials[how] = []
            for number in range(counts[how]):
                phase = PHASES[number % len(PHASES)]
                delay_s = rng.uniform(0, load_s if phase == "load" else WORKING_S)
                seed = rng.getrandbits(32)
                trials[how].append(attempt(config, FAULTS[how], phase, delay_s, seed))
    return trials


def summary(how: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the figures of one kind of fault, times in seconds."""
    times = [trial.seconds for trial in trials if trial.seconds is not None]
    bound_s = FAULTS[how].bound_s
    return {
        "trials": len(trials),
        **{phase: sum(trial.phase == phase for trial in trials) for phase in PHASES},
        "delivered": sum(trial.delivered for trial in trials),
        "median_s": round(statistics.median(times), 3) if times else None,
        "slowest_s": round(max(times), 3) if times else None,
        "bound_s": bound_s,
        "orphans": sum(trial.orphans for trial in trials),
        "missed": [trial._asdict() for trial in trials if trial.misses(bound_s)],
    }


def show(faults: dict[str, dict[str, Any]], note: str, console: Console) -> None:
    """Print a table, a kind of fault in each row."""
    table = Table(title=note, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("fault")
    columns = ("trials", *PHASES, "delivered", "median_s", "slowest_s", "bound_s", "orphans")
    for column in columns:
        table.add_column(column.removesuffix("_s") + " s" * column.endswith("_s"), justify="right")
    for how, figures in faults.items():
        values = (figures[column] for column in columns)
        table.add_row(how, *("-" if value is None else f"{value:g}" for value in values))
    console.print(table)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--kill", type=int, default=50, help="trials with SIGKILL")
    add("--stop", type=int, default=50, help="trials with SIGSTOP; each takes some 13 s")
    add("--raise", type=int, default=20, help="trials with an exception")
    add("--seed", type=int, help="of the random points; drawn if none is given")
    add("--shape", default="tiny", choices=SHAPES, help="random weights of this shape")
    add("--checkpoint", type=Path, help="a local Hugging Face folder instead")
    add("--out", type=Path, help="append the JSON line to this file too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trials; print a table and one JSON line."""
    args = arguments(argv)
    seed = random.SystemRandom().getrandbits(32) if args.seed is None else args.seed
    print(f"seed {seed}")
    try:
        config = EngineConfig(
            checkpoint=str(args.checkpoint or ensure(args.shape)),
            device="cpu",
            tensor_parallel=2,
            kv_cache_bytes=16 << 20,
            max_batch_tokens=32,
            prefix_caching=False,
            threads=1,
        )
        counts = {how: getattr(args, how) for how in FAULTS}
        trials = measure(config, counts, random.Random(seed))
    except GemmarayError as error:
        sys.exit(f"rank_faults.py: {error}")
    faults = {how: summary(how, tried) for how, tried in trials.items()}
    line = {"benchmark": "rank_faults", "seed": seed, **machine(), "faults": faults}
    show(faults, f"faults of rank 1 of 2, seed {seed}", Console(width=110))
    print(json.dumps(line))
    if args.out:
        append(args.out, line)
    if any(figures["missed"] for figures in faults.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
