"""A job whose driver is killed again and again, and run again each time."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .servers import ROOT
from .tally import contents, parts, tally

CAUSAL_LM = ROOT / "examples" / "demo-model" / "causal-lm"
POLL_S = 0.02
STALLED_S = 180.0  # without a new part
SHARE = 0.25  # of the units is spread over the lives that end by a kill


def job_fields(input_: Path, output: Path, unit_rows: int, **changes: Any) -> dict[str, Any]:
    """A job for the stub engine, seeded and sampled."""
    return {
        "input": str(input_),
        "output": str(output),
        "model": str(CAUSAL_LM),
        "prompt": "{text}",
        "keep": ["id"],
        "tasks": [{"generate": {"max_tokens": 4, "temperature": 1.0, "seed": 3}}],
        "unit_rows": unit_rows,
        "resources": {"replicas": 1, "threads": 1},
        **changes,
    }


def write_input(path: Path, rows: int) -> Path:
    """Write so many rows with texts that differ."""
    texts = [f"Name the section of this Debian package.\npackage-{i}: tool" for i in range(rows)]
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "text": texts})
    pq.write_table(table, path, row_group_size=max(1, rows // 4))
    return path


@dataclass
class Job:
    """A job and the drivers that run it, one after another.

    Attributes:
        folder: of everything that belongs to it.
        fields: of the JobSpec.
        address: of the Ray cluster; None has each driver start its own.
        engine: "stub", or "own" for the demo model's.
    """

    folder: Path
    fields: dict[str, Any]
    address: str | None
    engine: str = "stub"
    lives: int = 0
    process: subprocess.Popen[bytes] | None = None
    begun: Counter[str] = field(default_factory=Counter)
    redone_in_vain: int = 0
    there: set[str] = field(default_factory=set)

    @property
    def output(self) -> Path:
        """Where its parts are."""
        return Path(self.fields["output"])

    def start(self) -> None:
        """Start a driver."""
        self.lives += 1
        spec = self.folder / "job.json"
        spec.write_text(json.dumps(self.fields))
        command = [sys.executable, "-m", "tests.faults.driver", str(spec)]
        command += [f"--journal={self._journal()}", f"--engine={self.engine}"]
        if self.address:
            command.append(f"--address={self.address}")
        self.there = {unit_label(path.name) for path in parts(self.output)}
        with (self.folder / f"driver-{self.lives}.log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> bool:
        """Kill the driver; False if it had ended by then."""
        assert self.process is not None
        self.process.kill()
        delivered = self.process.wait() == -9
        self._take_journal()
        return delivered

    def wait(self, timeout_s: float) -> None:
        """Wait for the driver's good end. Raises RuntimeError if it comes to a bad one."""
        assert self.process is not None
        status = self.process.wait(timeout_s)
        self._take_journal()
        if status:
            raise RuntimeError(f"driver {self.lives} ended with {status}: {self.last_words()}")

    def last_words(self) -> str:
        """Give the end of what the driver printed."""
        log = self.folder / f"driver-{self.lives}.log"
        return log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()

    def _journal(self) -> Path:
        return self.folder / f"begun-{self.lives}.txt"

    def _take_journal(self) -> None:
        journal = self._journal()
        begun = set(journal.read_text().splitlines()) if journal.exists() else set()
        self.begun.update(begun)
        self.redone_in_vain += len(begun & self.there)


def unit_label(part: str) -> str:
    """Name the unit of a part, of the one file that these jobs have, as the journal does."""
    _, _, _, first, last = part.removesuffix(".parquet").split("-")
    return f"in.parquet rows {int(first)}-{int(last)}"


def run(
    rows: int,
    kills: int,
    seed: int,
    *,
    address: str | None,
    unit_rows: int = 32,
    engine: str = "stub",
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run a job under kills and once in peace, and give the figures.

    Args:
        rows: of the input.
        kills: drivers that are killed.
        seed: of when.
        address: of a Ray cluster that outlives the drivers.
        unit_rows: rows per unit.
        engine: "stub", or "own" for the demo model's.
        folder: for everything; a temporary one by default.
    """
    started = time.monotonic()
    top = folder or Path(tempfile.mkdtemp())
    source = write_input(top / "in.parquet", rows)
    jobs = []
    for name in ("killed", "peaceful"):
        (top / name).mkdir()
        fields = job_fields(source, top / name / "out", unit_rows)
        jobs.append(Job(top / name, fields, address, engine))
    killed, peaceful = jobs
    units = -(-rows // unit_rows)
    delivered = _kill_often(killed, kills, units, random.Random(seed))
    for job in jobs:
        job.start()
        job.wait(600)
    counted = tally(killed.output, {"in.parquet": rows})
    same = contents(killed.output).equals(contents(peaceful.output))
    if not folder:
        shutil.rmtree(top)
    redone = sum(killed.begun.values()) - units
    return {
        "row": 4,
        "test": "driver kills and resume" + (", demo model" if engine == "own" else ""),
        "seed": seed,
        "trials": 1,
        "rows": rows,
        "units": units,
        "faults": {"SIGKILL": delivered},
        "lost": counted.lost,
        "doubled": counted.doubled,
        "bad_trials": int(not counted.good or not same),
        "identical": same,
        "units_redone": redone,
        "units_redone_that_were_there": killed.redone_in_vain,
        "seconds": round(time.monotonic() - started, 1),
        "ok": counted.good and same and not killed.redone_in_vain,
    }


def _kill_often(job: Job, kills: int, units: int, rng: random.Random) -> int:
    """Kill drivers, each after a few parts and a moment; the first lives have the job's units."""
    most = max(1, int(2 * SHARE * units / max(kills, 1)))
    delivered = 0
    for _ in range(kills):
        job.start()
        goal = len(parts(job.output)) + rng.randint(job.engine == "own", most)
        _until(job, goal)
        time.sleep(rng.uniform(0, 0.3))
        delivered += job.kill()
    return delivered


def _until(job: Job, goal: int) -> None:
    """Wait until there are so many parts, or the driver has ended."""
    assert job.process is not None
    limit = time.monotonic() + STALLED_S
    journal = job._journal()
    # A life counts from its first unit on: before, there is nothing that a kill could harm.
    while job.process.poll() is None and not (journal.exists() or job.engine == "own"):
        _sleep(limit)
    while job.process.poll() is None and len(parts(job.output)) < goal:
        _sleep(limit)


def _sleep(limit: float) -> None:
    if time.monotonic() > limit:
        raise TimeoutError("the job does not get on")
    time.sleep(POLL_S)
