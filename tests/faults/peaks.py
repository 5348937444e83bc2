"""How much memory a job takes, process by process, however many rows it has."""

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from .driver_kills import job_fields, write_input
from .node_kills import prepare
from .servers import ROOT
from .tally import tally

PERIOD_S = 0.5
MIB = 1 << 20
# Of Ray's processes, by what they call themselves.
ROLES = (
    ("replica", re.compile(r"ray::\S*MapWorker")),
    ("board", re.compile(r"ray::ProgressBoard")),
    ("task", re.compile(r"ray::")),
    ("raylet", re.compile(r"\S*raylet/raylet")),
    ("gcs", re.compile(r"\S*gcs_server")),
)


class Peaks(threading.Thread):
    """Watches a driver and what it has started, until it ends.

    Attributes:
        peaks: bytes of the largest process of each role, without what it shares with others; and of
            the object store, as far as it was ever written to.
    """

    def __init__(self, driver: int) -> None:
        super().__init__(name="peaks", daemon=True)
        self._driver = psutil.Process(driver)
        self.peaks: Counter[str] = Counter()

    def run(self) -> None:
        """Look twice a second."""
        with suppress(psutil.NoSuchProcess):
            while True:
                self._see("driver", self._driver)
                for process in self._driver.children(recursive=True):
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        self._see(_role(process), process)
                time.sleep(PERIOD_S)

    def _see(self, role: str | None, process: psutil.Process) -> None:
        private, shared = _resident(process.pid)
        if role:
            self.peaks[role] = max(self.peaks[role], private)
        if role == "raylet":
            self.peaks["object store"] = max(self.peaks["object store"], shared)


def run(rows: int) -> dict[str, Any]:
    """Run a job of so many rows on the stub engine, and give the figures."""
    prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_input(folder / "in.parquet", rows)
        fields = {**job_fields(source, folder / "out", 1), "unit_rows": None}
        (folder / "job.json").write_text(json.dumps(fields))
        command = [sys.executable, "-m", "tests.faults.driver", str(folder / "job.json")]
        started = time.monotonic()
        with (folder / "driver.log").open("w+b") as log:
            driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            watch = Peaks(driver.pid)
            watch.start()
            status = driver.wait()
            watch.join()
            if status:
                log.seek(0)
                sys.exit(log.read().decode(errors="replace"))
        seconds = time.monotonic() - started
        counted = tally(folder / "out", {"in.parquet": rows})
    return {
        "row": 7,
        "test": f"memory of {rows:,} rows",
        "seed": None,
        "trials": 1,
        "rows": rows,
        "faults": {f"MiB of {role}": peak // MIB for role, peak in watch.peaks.most_common()},
        "lost": counted.lost,
        "doubled": counted.doubled,
        "bad_trials": int(not counted.good),
        "seconds": round(seconds, 1),
        "ok": counted.good,
    }


def _role(process: psutil.Process) -> str | None:
    line = " ".join(process.cmdline())
    return next((role for role, pattern in ROLES if pattern.match(line)), None)


def _resident(pid: int) -> tuple[int, int]:
    """Give a process's private and shared bytes in memory."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    private, shared = (re.search(rf"{name}:\s*(\d+) kB", text) for name in ("RssAnon", "RssShmem"))
    return (int(private[1]) << 10, int(shared[1]) << 10) if private and shared else (0, 0)
