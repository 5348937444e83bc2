"""What a run cost: seconds, and how busy the machine was with anything else."""

import contextlib
import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from .memory import family

Result = TypeVar("Result")
SAMPLE_S = 1.5
POLL_S = 0.05
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Timing:
    """What a run took.

    Attributes:
        wall_s: seconds.
        cpu_s: CPU seconds of the process that did it and its children.
        other_cores: how many cores other processes kept busy meanwhile.
    """

    wall_s: float
    cpu_s: float
    other_cores: float


@dataclass(frozen=True, slots=True)
class Quiet:
    """When a run counts.

    Attributes:
        max_other: a run during which other processes used more cores than this is repeated.
        max_tries: runs that are made at most; if none was quiet, the quietest counts.
        patience_s: how long to wait for quiet before each run.
    """

    max_other: float = 0.05
    max_tries: int = 4
    patience_s: float = 90.0

    def wait(self) -> None:
        """Wait until the machine is otherwise idle, or patience is at its end."""
        if math.isinf(self.max_other):
            return
        end = time.monotonic() + self.patience_s
        while time.monotonic() < end:
            # A short sample is noisier than a run.
            if timed(lambda: time.sleep(SAMPLE_S))[1].other_cores <= 2 * self.max_other:
                return

    def enough(self, runs: Sequence[Timing]) -> bool:
        """Whether one of these runs counts."""
        quiet = any(run.other_cores <= self.max_other for run in runs)
        return quiet or len(runs) >= self.max_tries


def timed(function: Callable[[], Result], pid: int | None = None) -> tuple[Result, Timing]:
    """Call a function; what it returns, and what it took.

    Args:
        function: is called once.
        pid: of the process that does the work, if it is another one.
    """
    pid = pid or os.getpid()
    machine, own = _machine_cpu_s(), _family_cpu_s(pid)
    start = time.perf_counter()
    result = function()
    wall_s = time.perf_counter() - start
    cpu_s = _family_cpu_s(pid) - own
    others = _machine_cpu_s() - machine - cpu_s
    return result, Timing(wall_s, cpu_s, max(0.0, others) / wall_s)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, as Ray's do; see prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def reap_orphans(timeout_s: float) -> None:
    """Wait until this process has no children left, for so long at most."""
    end = time.monotonic() + timeout_s
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                time.sleep(POLL_S)


def spread_pct(walls_s: Sequence[float]) -> float:
    """Return the distance of the slowest run from the fastest, in percent of the median."""
    return 100 * (max(walls_s) - min(walls_s)) / statistics.median(walls_s)


def machine() -> dict[str, Any]:
    """Describe what a figure was measured on."""
    has_gpu = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _family_cpu_s(pid: int) -> float:
    total = 0.0
    for process in family(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
