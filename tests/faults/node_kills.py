"""Jobs on a cluster of three nodes on one machine, whose workers, nodes and heads are killed."""

import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.connect import ray_environment

from .driver_kills import Job, job_fields, write_input
from .tally import contents, parts, tally

NODES = 2  # beside the head's
NODE = {"num_cpus": 2, "object_store_memory": 100 << 20}
# Workers that do something for the job: reading, computing or committing.
BUSY = re.compile(r"ray::\S*(Map|Read|Replica|commit)")
PAUSE_S = (0.5, 3.0)  # between two kills
LINGERS_S = 20.0  # how long a driver may outlive its cluster's head
STALLED_S = 240.0
UNIT_ROWS = 16


def prepare() -> None:
    """Give this process and its children a Ray that is quiet and let in by a token of its own."""
    os.environ.update(ray_environment(local=True))


class Nodes:
    """A head and two more nodes, each a raylet of its own."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - it reads the environment

        head = {**NODE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
        for _ in range(NODES):
            self._cluster.add_node(**NODE)

    @property
    def address(self) -> str:
        """Where drivers connect to."""
        return str(self._cluster.address)

    def kill_worker(self, rng: random.Random) -> bool:
        """Kill a process that works for the job; False if there is none."""
        workers = [child for node in self._cluster.list_all_nodes() for child in _busy(node)]
        with suppress(psutil.NoSuchProcess):
            if workers:
                rng.choice(workers).kill()
                return True
        return False

    def kill_node(self, rng: random.Random) -> bool:
        """Kill a node but the head's with all that is on it, and put another in its place."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: str(node.unique_id))
        self._cluster.remove_node(rng.choice(nodes), allow_graceful=False)
        time.sleep(rng.uniform(0, 2))
        self._cluster.add_node(**NODE)
        return True

    def kill_all(self) -> None:
        """Kill the head, and then what hung on it."""
        for node in self._cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._cluster.head_node = None
        self._cluster.worker_nodes = set()


def _busy(node: Any) -> list[psutil.Process]:
    found = []
    for info in node.all_processes.get("raylet", []):
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(info.process.pid).children():
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    if BUSY.match(" ".join(child.cmdline())):
                        found.append(child)
    return found


class Chaos:
    """Jobs one after another, until all kills are delivered and the last job is done."""

    def __init__(self, folder: Path, rows: int, rng: random.Random) -> None:
        self._folder, self._rows, self._rng = folder, rows, rng
        self._source = write_input(folder / "in.parquet", rows)
        self._nodes = Nodes()
        self.delivered: Counter[str] = Counter()
        self.jobs: list[Job] = []
        self.errors: list[str] = []
        self._next_job()

    def run(self, kills: list[str]) -> None:
        """Deliver kills, in their order."""
        for kind in kills:
            while not self._delivered(kind):
                pass
            self.delivered[kind] += 1
        self._see_it_through()

    def close(self) -> None:
        """End the cluster and the driver."""
        if self.jobs[-1].process is not None:
            self.jobs[-1].process.kill()
        self._nodes.kill_all()

    def _delivered(self, kind: str) -> bool:
        self._until_it_gets_on()
        time.sleep(self._rng.uniform(*PAUSE_S))
        process = self.jobs[-1].process
        if process is None or process.poll() is not None:
            return False  # there is nobody to be harmed
        if kind == "worker":
            return self._nodes.kill_worker(self._rng)
        if kind == "node":
            return self._nodes.kill_node(self._rng)
        self._lose_the_head()
        return True

    def _lose_the_head(self) -> None:
        job = self.jobs[-1]
        self._nodes.kill_all()
        assert job.process is not None
        with suppress(Exception):
            job.process.wait(LINGERS_S)
        job.kill()
        self._nodes = Nodes()
        job.address = self._nodes.address
        job.start()

    def _next_job(self) -> None:
        folder = self._folder / f"job-{len(self.jobs)}"
        folder.mkdir()
        resources = {"replicas": "1..2", "threads": 1}
        fields = job_fields(self._source, folder / "out", UNIT_ROWS, resources=resources)
        self.jobs.append(Job(folder, fields, self._nodes.address))
        self.jobs[-1].start()

    def _until_it_gets_on(self) -> None:
        """Wait for a new part; go on with a job that failed, and after its end with another."""
        count, limit = len(parts(self.jobs[-1].output)), time.monotonic() + STALLED_S
        while len(parts(self.jobs[-1].output)) <= count:
            if self._ended():
                self._next_job()
                count = 0
            time.sleep(0.1)
            if time.monotonic() > limit:
                raise TimeoutError(f"the job does not get on: {self.jobs[-1].last_words()}")

    def _ended(self) -> bool:
        """Tell whether the job is done; one that ended in an error is run again."""
        job = self.jobs[-1]
        assert job.process is not None
        status = job.process.poll()
        if status:
            self.errors.append(job.last_words())
            job.start()
        return status == 0

    def _see_it_through(self) -> None:
        limit = time.monotonic() + STALLED_S
        while not self._ended():
            time.sleep(0.1)
            if time.monotonic() > limit:
                raise TimeoutError(f"the job does not end: {self.jobs[-1].last_words()}")


def run(workers: int, nodes: int, heads: int, rows: int, seed: int) -> dict[str, Any]:
    """Run jobs under so many kills of each kind, and give the figures.

    Every job's table is compared with the first's: a row that was given up shows.
    """
    started, rng = time.monotonic(), random.Random(seed)
    prepare()
    kills = ["worker"] * workers + ["node"] * nodes + ["head"] * heads
    rng.shuffle(kills)
    top = Path(tempfile.mkdtemp())
    chaos = Chaos(top, rows, rng)
    try:
        chaos.run(kills)
    finally:
        chaos.close()
    tallies = [tally(job.output, {"in.parquet": rows}) for job in chaos.jobs]
    tables = [contents(job.output) for job in chaos.jobs]
    failed = sum(rows - table["error"].null_count for table in tables)
    same = all(table.equals(tables[0]) for table in tables)
    good = all(counted.good for counted in tallies) and same and not failed
    shutil.rmtree(top)
    return {
        "row": 5,
        "test": "chaos, 3 nodes",
        "seed": seed,
        "trials": len(chaos.jobs),
        "rows": rows,
        "faults": dict(chaos.delivered),
        "lost": sum(counted.lost for counted in tallies),
        "doubled": sum(counted.doubled for counted in tallies),
        "bad_trials": sum(not counted.good for counted in tallies),
        "rows_failed": failed,
        "identical": same,
        "driver_errors": chaos.errors,
        "seconds": round(time.monotonic() - started, 1),
        "ok": good,
    }
