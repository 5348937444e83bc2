"""What a job costs beside the engine: the same rows through a whole job and through a bare engine.

    python benchmarks/pipeline_overhead.py --rows 20000 --replicas 2 --out FILE

The rows are those of examples/packages.parquet, over and over, each with a number of its own. One
engine in a process of its own computes them with all cores (tokenizing and detokenizing included,
loading not); then a job does, from Parquet to Parquet, on Ray. Prints one JSON line: both speeds
in tokens per second, the job's as a share, over the whole job and from the first token on; the
peak memory of the driver and of each replica; and whether every row came out once.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import machine
from cluster.connect import connected
from pipelines import JobSpec, Progress

REPOSITORY = Path(__file__).resolve().parents[1]
PROMPT = "Name the section of this Debian package.\n{package}: {synopsis}"
SAMPLE_S = 0.5
# What the processes are called in which Ray Data keeps its actors.
REPLICA_TITLE = "MapWorker"


@dataclass
class Peaks:
    """Peak memory in bytes, sampled: resident, and unshared (without Ray's object store)."""

    driver_rss: int = 0
    driver_unshared: int = 0
    replicas_rss: dict[int, int] = field(default_factory=dict)
    replicas_unshared: dict[int, int] = field(default_factory=dict)

    def sample(self) -> None:
        """Look once."""
        driver = psutil.Process().memory_full_info()
        self.driver_rss = max(self.driver_rss, driver.rss)
        self.driver_unshared = max(self.driver_unshared, driver.uss)
        for child in psutil.Process().children(recursive=True):
            try:
                if REPLICA_TITLE in " ".join(child.cmdline()):
                    memory = child.memory_full_info()
                    for peaks, now in (
                        (self.replicas_rss, memory.rss),
                        (self.replicas_unshared, memory.uss),
                    ):
                        peaks[child.pid] = max(peaks.get(child.pid, 0), now)
            except psutil.Error:
                continue

    def describe(self) -> dict[str, Any]:
        """Give MiB, the largest replica first."""
        return {
            "driver_rss_mib": self.driver_rss >> 20,
            "driver_unshared_mib": self.driver_unshared >> 20,
            "replicas_rss_mib": sorted((v >> 20 for v in self.replicas_rss.values()), reverse=True),
            "replicas_unshared_mib": sorted(
                (v >> 20 for v in self.replicas_unshared.values()), reverse=True
            ),
        }


def write_rows(path: Path, count: int) -> None:
    """Write `count` rows of the sample, each with its number in a column `number`."""
    sample = pq.read_table(REPOSITORY / "examples" / "packages.parquet")
    copies = -(-count // sample.num_rows)
    table = pa.concat_tables([sample] * copies).slice(0, count)
    pq.write_table(table.append_column("number", pa.array(range(count))), path)


def run_bare(path: Path, model: str, max_tokens: int, threads: int) -> dict[str, Any]:
    """Compute all rows with one engine in this process."""
    from model import Engine, EngineConfig, SamplingParams  # noqa: PLC0415 - not in the driver

    rows = pq.read_table(path).to_pylist()
    prompts = [[{"role": "user", "content": PROMPT.format(**row)}] for row in rows]
    with Engine(EngineConfig(checkpoint=model, threads=threads)) as engine:
        engine.generate(prompts[:64], SamplingParams(max_tokens=max_tokens))
        start = time.perf_counter()
        outputs = engine.generate(prompts, SamplingParams(max_tokens=max_tokens))
        wall_s = time.perf_counter() - start
    tokens = sum(output.prompt_tokens + len(output.token_ids) for output in outputs)
    return {
        "wall_s": wall_s,
        "tokens": tokens,
        "tokens_per_s": tokens / wall_s,
        "texts": [output.text for output in outputs],
    }


def run_piped(spec: JobSpec) -> dict[str, Any]:
    """Compute all rows with a job on a Ray of its own."""
    peaks, done, first = Peaks(), threading.Event(), 0.0

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            peaks.sample()

    def on_progress(progress: Progress) -> None:
        nonlocal first
        if not first and progress.prompt_tokens:
            first = progress.elapsed_s

    with connected():
        from pipelines import run_job  # noqa: PLC0415 - Ray reads its environment when imported

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            report = run_job(spec, on_progress=on_progress)
        finally:
            done.set()
            sampler.join()
    tokens = report.prompt_tokens + report.completion_tokens
    return {
        "wall_s": report.elapsed_s,
        "first_token_s": first,
        "tokens": tokens,
        "tokens_per_s": tokens / report.elapsed_s,
        "tokens_per_s_from_first": tokens / (report.elapsed_s - first),
        "rows_failed": report.rows_failed,
        "parts": report.parts,
        **peaks.describe(),
    }


def check(output: Path, count: int, texts: list[str]) -> dict[str, Any]:
    """Count the rows that came out, and those that say what the bare engine said."""
    table = pq.read_table(output)
    numbers = table["number"].to_pylist()
    by_number = dict(zip(numbers, table["generated_text"].to_pylist(), strict=True))
    return {
        "rows_out": table.num_rows,
        "every_row_once": sorted(numbers) == list(range(count)),
        "in_order": numbers == list(range(count)),
        "errors": table.num_rows - table["error"].null_count,
        "texts_equal": sum(by_number[n] == text for n, text in enumerate(texts)) / count,
        "accuracy": pc.mean(pc.equal(table["generated_text"], table["section"])).as_py(),
    }


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=12)
    parser.add_argument("--model", default=str(REPOSITORY / "examples/demo-model/causal-lm"))
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, output = Path(folder, "rows.parquet"), Path(folder, "out")
        write_rows(rows, args.rows)
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            bare = pool.submit(run_bare, rows, args.model, args.max_tokens, cores).result()
        spec = JobSpec(
            input=str(rows),
            output=str(output),
            model=args.model,
            prompt=PROMPT,
            tasks=[{"generate": {"max_tokens": args.max_tokens}}],
            resources={"replicas": args.replicas},
        )
        piped = run_piped(spec)
        checked = check(output, args.rows, bare.pop("texts"))
    line = {
        "benchmark": "pipeline_overhead",
        "rows": args.rows,
        "replicas": args.replicas,
        "share": piped["tokens_per_s"] / bare["tokens_per_s"],
        "share_from_first_token": piped["tokens_per_s_from_first"] / bare["tokens_per_s"],
        "bare": bare,
        "job": piped,
        **checked,
        "machine": machine(),
    }
    print(json.dumps(line))
    if args.out:
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
