"""A rank's main program that fails on purpose: `FAULT=how:when:rank` in the environment.

How: kill, stop, raise, or sleep in one thread while the others go on. When: load, or in a forward
pass of prefill, decode or a second prefill ("again"), between two collectives. The file FAULT_AT is
told the time (monotonic).
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from model.engine import rank_process
from model.engine.runner import Runner
from model.parallel import TensorParallel


class Fault:
    def __init__(self) -> None:
        self.how, self.when, rank = os.environ["FAULT"].split(":")
        self.rank = int(rank)
        self.stage = ""
        self.collectives = 0
        self.prefills = 0

    def strike(self) -> None:
        Path(os.environ["FAULT_AT"]).write_text(str(time.monotonic()))
        if self.how == "sleep":
            time.sleep(600)
        if self.how == "raise":
            raise RuntimeError("a fault on purpose")
        os.kill(os.getpid(), signal.SIGKILL if self.how == "kill" else signal.SIGSTOP)

    def install(self) -> None:
        build, run, all_reduce = Runner.__init__, Runner.run, TensorParallel.all_reduce

        def faulty_build(runner: Runner, setup: Any, tp: TensorParallel) -> None:
            build(runner, setup, tp)
            if self.when == "load" and tp.rank == self.rank:
                self.strike()

        def faulty_run(runner: Runner, batch: Any, *drawn: Any) -> Any:
            prefill = max(batch.query_lens) > 1
            self.stage = ("again" if self.prefills else "prefill") if prefill else "decode"
            self.prefills += prefill
            self.collectives = 0
            return run(runner, batch, *drawn)

        def faulty_all_reduce(tp: TensorParallel, x: Any) -> Any:
            self.collectives += 1
            if self.stage == self.when and tp.rank == self.rank and self.collectives == 3:
                self.strike()
            return all_reduce(tp, x)

        Runner.__init__ = faulty_build  # type: ignore[method-assign]
        Runner.run = faulty_run  # type: ignore[method-assign]
        TensorParallel.all_reduce = faulty_all_reduce  # type: ignore[method-assign]


if __name__ == "__main__":
    Fault().install()
    rank_process.main()
