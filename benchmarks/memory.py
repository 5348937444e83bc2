"""How much memory the processes of an engine hold, watched from outside."""

import threading
from pathlib import Path
from typing import NamedTuple, Self

import psutil

INTERVAL_S = 0.2
# Walking the process table costs more than reading a few entries of it.
SAMPLES_PER_WALK = 5


class Resident(NamedTuple):
    """Resident bytes of one process: its own, those of files, and those it may share."""

    own: int
    files: int
    shared: int


def resident(pid: int) -> Resident:
    """Read one process's memory; nothing if it has ended. Zombies hold none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return Resident(0, 0, 0)
    fields = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Rss"))
    own, files, shared = (
        int(fields.get(name, "0 kB").split()[0]) * 1024
        for name in ("RssAnon", "RssFile", "RssShmem")
    )
    return Resident(own, files, shared)


def together(processes: list[Resident]) -> int:
    """Sum up a tree of processes, counting what they may share (files, shared memory) once.

    Exact for a single process. For several it is a lower bound: of the files and of the shared
    memory the largest process's are taken for all.
    """
    if not processes:
        return 0
    return (
        sum(process.own for process in processes)
        + max(process.files for process in processes)
        + max(process.shared for process in processes)
    )


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants; empty if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class MemoryWatch:
    """Samples the memory of a process and its descendants, five times a second, on a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peak(self) -> int:
        """The most bytes in any sample so far."""
        return self._peak

    def _watch(self) -> None:
        sample, pids = 0, [self._pid]
        while not self._ended.wait(INTERVAL_S):
            if sample % SAMPLES_PER_WALK == 0:
                pids = [process.pid for process in family(self._pid)]
            sample += 1
            self._peak = max(self._peak, together([resident(pid) for pid in pids]))
