"""The same requests through several engines, in turns, one engine in memory at a time."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from model.config import ModelConfig

from .measure import Quiet, machine
from .peers.launch import REPOSITORY, Launch
from .report import Record, gemm_gflop
from .spec import BenchmarkError
from .worker import Loaded, Run, Worker
from .workloads import Workload

GIB = 2**30
Ceilings = dict[str, float | None]


@dataclass
class Figures:
    """What one engine did on one workload: the run that counts of each turn, and the first's."""

    chosen: list[Run] = field(default_factory=list)
    loaded: list[Loaded] = field(default_factory=list)
    tries: int = 0


@dataclass(frozen=True)
class Comparison:
    """Engines, workloads, and how often they are run.

    In each turn every engine gets a fresh process, a warm-up of four other requests before each
    workload, and one run of it. A run that other processes disturbed is made again in another
    fresh process: nothing that an engine keeps between runs can help it.

    Attributes:
        launches: the engines; answers are held against the first one's.
        workloads: in this order.
        seed: of the requests.
        turns: runs that count of each engine and workload.
        quiet: when a run counts.
        report: is told about each run, for people.
    """

    launches: Sequence[Launch]
    workloads: Sequence[Workload]
    seed: int
    turns: int
    quiet: Quiet
    report: Callable[[str], None]

    def run(self, *, with_ceilings: bool) -> tuple[list[Record], list[str]]:
        """Measure everything.

        Returns:
            A record for each engine and workload, and what was wrong with engines that failed:
            those have none, and do not end an hour's measuring.

        Raises:
            BenchmarkError: the first engine, which the others are held against, did not load or
                not answer as it was asked to.
        """
        began = datetime.now(UTC).isoformat(timespec="seconds")
        figures = [[Figures() for _ in self.workloads] for _ in self.launches]
        ceilings: list[Ceilings] = []
        failed: dict[int, str] = {}
        for turn in range(self.turns):
            if with_ceilings:
                self.quiet.wait()
                ceilings.append(measure_ceilings(self.launches[0].spec.threads))
                self.report(f"turn {turn + 1}: ceilings {_in_words(ceilings[-1])}")
            for number, launch in enumerate(self.launches):
                if number not in failed:
                    try:
                        self._take_turn(turn, launch, figures[number])
                    except BenchmarkError as error:
                        if not number:
                            raise
                        failed[number] = str(error)
                        self.report(f"turn {turn + 1}: left out from here on: {error}")
        best = highest(ceilings)
        records = [
            self._record(began, launch, workload, figures[number][at], figures[0][at], best)
            for at, workload in enumerate(self.workloads)
            for number, launch in enumerate(self.launches)
            if number not in failed
        ]
        return records, list(failed.values())

    def _take_turn(self, turn: int, launch: Launch, figures: Sequence[Figures]) -> None:
        """Run every workload on one engine, each until a run was quiet."""
        runs: list[list[Run]] = [[] for _ in self.workloads]
        while open_ := [at for at, made in enumerate(runs) if not self._enough(made)]:
            with Worker(launch) as worker:
                for at in open_:
                    worker.run(self.workloads[at].warm_up(self.seed))
                    self.quiet.wait()
                    run = worker.run(self.workloads[at].requests(self.seed))
                    runs[at].append(run)
                    self.report(
                        f"turn {turn + 1}: {launch.spec.label}, {self.workloads[at]}: "
                        f"{run.timing.wall_s:.2f} s, others {run.timing.other_cores:.2f} cores"
                    )
        for made, own in zip(runs, figures, strict=True):
            own.chosen.append(min(made, key=lambda run: run.timing.other_cores))
            own.loaded.append(worker.loaded)
            own.tries += len(made)

    def _enough(self, runs: Sequence[Run]) -> bool:
        return bool(runs) and self.quiet.enough([run.timing for run in runs])

    def _record(
        self,
        began: str,
        launch: Launch,
        workload: Workload,
        own: Figures,
        first: Figures,
        ceilings: Ceilings,
    ) -> Record:
        """Sum up one engine's runs; `first` is of the engine that the others are held against."""
        spec, loaded = launch.spec, own.loaded[0]
        config = ModelConfig.from_folder(spec.checkpoint)
        requests = workload.requests(self.seed)
        prompt_tokens = sum(len(request.prompt) for request in requests)
        output_tokens = sum(request.output_len for request in requests)
        answers = zip(own.chosen[0].answers, first.chosen[0].answers, strict=True)
        return Record(
            run=began,
            machine=machine(),
            engine=spec.name,
            version=loaded.version,
            variant=spec.variant,
            settings=loaded.settings,
            precision=loaded.precision,
            shape=spec.checkpoint.name,
            architecture=config.architecture,
            dtype=spec.dtype,
            device=spec.device,
            threads=spec.threads,
            workload=str(workload),
            seed=self.seed,
            requests=len(requests),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            walls_s=tuple(run.timing.wall_s for run in own.chosen),
            cpus_s=tuple(run.timing.cpu_s for run in own.chosen),
            gemm_gflop=gemm_gflop(config, prompt_tokens, output_tokens),
            ceiling_gflops=ceilings.get(loaded.precision),
            other_cores=max(run.timing.other_cores for run in own.chosen),
            tries=own.tries,
            peak_rss_gib=max(run.peak_rss for run in own.chosen) / GIB,
            peak_gpu_gib=max(run.peak_gpu for run in own.chosen) / GIB,
            load_s=statistics.median(loaded.load_s for loaded in own.loaded),
            start_s=statistics.median(loaded.start_s for loaded in own.loaded),
            same_answers_pct=100 * sum(a == b for a, b in answers) / len(requests),
        )


def measure_ceilings(threads: int) -> Ceilings:
    """Measure the machine's matmuls, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.ceiling", "--threads", str(threads)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"ceiling.py failed: {done.stderr.strip().splitlines()[-1]}")
    measured: Ceilings = json.loads(done.stdout)
    return measured


def highest(measured: Sequence[Ceilings]) -> Ceilings:
    """Return the best of each precision: what disturbs a ceiling only ever lowers it."""
    names = dict.fromkeys(name for ceilings in measured for name in ceilings)
    return {
        name: max((rate for c in measured if (rate := c.get(name)) is not None), default=None)
        for name in names
    }


def _in_words(ceilings: Ceilings) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in ceilings.items() if rate)
