"""Offline throughput: this engine beside others, on the same requests, in turns.

    python benchmarks/offline.py --shape mini --workload uniform:64 sharegpt:48:0.5
    python benchmarks/offline.py --checkpoint DIR --workload classify:32 --peers

Prints a JSON line for each engine and workload, and a table on stderr. Each engine has a process
of its own; they take turns, and a run that other processes disturbed is repeated. Loading and a
warm-up of four other requests are outside the wall time. Greedy, end tokens ignored, and exactly
the tokens that were asked for: an engine that gives any other number is refused.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.checkpoints import SHAPES, ensure
from benchmarks.contenders import Spec
from benchmarks.measure import Quiet, machine
from benchmarks.report import TABLE_WIDTH, Record, append, gemm_gflop, show
from benchmarks.worker import Run, Worker
from benchmarks.workloads import Workload
from model.config import ModelConfig
from model.errors import GemmarayError
from model.params import Device

GIB = 2**30


def compare(workers: Sequence[Worker], workload: Workload, seed: int, quiet: Quiet) -> list[Record]:
    """Run one workload on every engine in turns, and return a record for each."""
    for worker in workers:
        worker.run(workload.warm_up(seed))
    requests = workload.requests(seed)
    runs: list[list[Run]] = [[] for _ in workers]
    for _ in range(max(quiet.max_tries, quiet.repeat)):
        for worker, own in zip(workers, runs, strict=True):
            if not quiet.enough([run.timing for run in own]):
                quiet.wait()
                own.append(worker.run(requests))
    return [
        _record(worker, workload, seed, own, quiet, runs[0][0])
        for worker, own in zip(workers, runs, strict=True)
    ]


def _record(
    worker: Worker, workload: Workload, seed: int, runs: list[Run], quiet: Quiet, first: Run
) -> Record:
    """Sum up one engine's runs; `first` is a run of the engine that the others are held against."""
    spec, loaded = worker.spec, worker.loaded
    config = ModelConfig.from_folder(spec.checkpoint)
    requests = workload.requests(seed)
    prompt_tokens = sum(len(request.prompt) for request in requests)
    output_tokens = sum(request.output_len for request in requests)
    chosen = quiet.chosen([run.timing for run in runs])
    same = [a == b for a, b in zip(runs[0].answers, first.answers, strict=True)]
    return Record(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        engine=spec.name,
        version=loaded.version,
        variant=loaded.variant,
        shape=spec.checkpoint.name,
        architecture=config.architecture,
        dtype=spec.dtype,
        device=spec.device,
        threads=spec.threads,
        workload=str(workload),
        seed=seed,
        requests=len(requests),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        walls_s=tuple(timing.wall_s for timing in chosen),
        cpus_s=tuple(timing.cpu_s for timing in chosen),
        gemm_gflop=gemm_gflop(config, prompt_tokens, output_tokens),
        other_cores=max(timing.other_cores for timing in chosen),
        tries=len(runs),
        peak_rss_gib=max(run.peak_rss for run in runs) / GIB,
        peak_gpu_gib=max(run.peak_gpu for run in runs) / GIB,
        load_s=loaded.load_s,
        same_answers_pct=100 * sum(same) / len(same),
    )


def specs(args: argparse.Namespace) -> Iterator[Spec]:
    """Name the engines that were asked for, ours first."""
    device: Device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = args.checkpoint or ensure(args.shape, labels=args.labels)
    for name in ("gemmaray", *args.peers):
        yield Spec(
            name,
            checkpoint.resolve(),
            args.dtype,
            device,
            args.threads,
            args.peer_batch,
            dict(args.set or ()) if name == "gemmaray" else {},
        )


def setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, the value as JSON where it is JSON."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    quiet = Quiet()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path, help="a local Hugging Face folder")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    add("--labels", type=int, default=0, help="with --shape: a classification head of this size")
    add("--workload", nargs="+", required=True, metavar="NAME:COUNT[:SCALE]")
    add("--peers", nargs="*", default=["transformers"], choices=["transformers"])
    add("--peer-batch", type=int, default=32, help="requests of a static batch")
    add("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--threads", type=int, default=2)
    add("--set", nargs="*", type=setting, metavar="KEY=VALUE", help="EngineConfig fields of ours")
    add("--seed", type=int, default=0)
    add("--repeat", type=int, default=quiet.repeat, help="runs that count")
    add("--max-tries", type=int, default=quiet.max_tries)
    add(
        "--max-other",
        type=float,
        default=quiet.max_other,
        help="repeat a run during which other processes used more cores; inf accepts every run",
    )
    add("--patience", type=float, default=quiet.patience_s, help="seconds to wait for quiet")
    add("--out", type=Path, help="append the JSON lines to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, print, and keep."""
    args = arguments(argv)
    quiet = Quiet(args.repeat, args.max_other, args.max_tries, args.patience)
    records: list[Record] = []
    try:
        workloads = [Workload.parse(text) for text in args.workload]
        with ExitStack() as stack:
            workers = [stack.enter_context(closing(Worker(spec))) for spec in specs(args)]
            for workload in workloads:
                for record in compare(workers, workload, args.seed, quiet):
                    print(json.dumps(record.line()), flush=True)
                    if args.out:
                        append(args.out, record)
                    records.append(record)
    except GemmarayError as error:
        sys.exit(f"offline.py: {error}")
    show(records, Console(stderr=True, width=TABLE_WIDTH))


if __name__ == "__main__":
    main()
