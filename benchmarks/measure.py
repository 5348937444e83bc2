"""What a run cost: seconds, memory, and how busy the machine was with anything else."""

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

Result = TypeVar("Result")
SAMPLE_S = 1.5
# "5" sets the peak resident size to the present one; see proc(5).
RESET_PEAK = "5"


@dataclass(frozen=True, slots=True)
class Timing:
    """What a run took.

    Attributes:
        wall_s: seconds.
        cpu_s: CPU seconds of this process and its children.
        other_cores: how many cores other processes kept busy meanwhile.
    """

    wall_s: float
    cpu_s: float
    other_cores: float


@dataclass(frozen=True, slots=True)
class Quiet:
    """When a run counts.

    Attributes:
        repeat: runs that are wanted.
        max_other: a run during which other processes used more cores than this is repeated.
        max_tries: runs that are made at most; if too few were quiet, the quietest count.
        patience_s: how long to wait for quiet before each run.
    """

    repeat: int = 2
    max_other: float = 0.05
    max_tries: int = 8
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
        """Whether nothing has to be repeated."""
        quiet = sum(run.other_cores <= self.max_other for run in runs)
        return quiet >= self.repeat or len(runs) >= max(self.max_tries, self.repeat)

    def chosen(self, runs: Sequence[Timing]) -> list[Timing]:
        """Return the runs that count."""
        return sorted(runs, key=lambda run: run.other_cores)[: self.repeat]


def timed(function: Callable[[], Result]) -> tuple[Result, Timing]:
    """Call a function; what it returns, and what it took."""
    machine, own = _machine_cpu_s(), _own_cpu_s()
    start = time.perf_counter()
    result = function()
    wall_s = time.perf_counter() - start
    cpu_s = _own_cpu_s() - own
    others = _machine_cpu_s() - machine - cpu_s
    return result, Timing(wall_s, cpu_s, max(0.0, others) / wall_s)


def peak_rss() -> int:
    """Sum the peak resident bytes of this process and its children.

    An upper bound where there are children: peaks need not coincide, and shared pages count twice.
    """
    return sum(_peak_of(process.pid) for process in _family())


def forget_peak_rss() -> None:
    """Let the peaks start anew from what is resident now."""
    for process in _family():
        Path(f"/proc/{process.pid}/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def peak_gpu() -> int:
    """Return the most bytes that tensors of this process have held on the GPU; 0 without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


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


def _own_cpu_s() -> float:
    total = 0.0
    for process in _family():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _family() -> list[psutil.Process]:
    process = psutil.Process()
    return [process, *process.children(recursive=True)]


def _peak_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
