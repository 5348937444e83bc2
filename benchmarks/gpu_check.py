"""What to run first on a machine with a GPU: does everything work, and how fast is it?

    python benchmarks/gpu_check.py --out DIR [--budget-s 1500] [--shapes 2b 9b] [--only CHECK ...]

Needs torch, transformers, a few small packages (the first check names those that are missing) and
this repository, which need not be installed; no Ray, no network. Each check runs in a process of
its own: one that hangs, crashes or breaks the CUDA context leaves the others alone. The cheapest
and most telling come first, and none starts when the budget is spent. Prints a JSON line for each
and a table in the end, and keeps everything in DIR/gpu_check.json. `--device cpu` tries what a CPU
can do. Ends with status 1 if any check failed.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.checks.table import rows, text

# Which module of `checks` has the check; imported by the child that runs it, for its imports may
# be what fails. In the order in which they are run.
CHECKS = {
    "versions": "device",
    "ceilings": "device",
    "reference": "attention",
    "triton_attention": "attention",
    "flex": "attention",
    "flash": "attention",
    "triton": "kernels",
    "fp8": "device",
    "fp8_linear": "kernels",
    "decoded": "kernels",
    "parity": "engine",
    "bfloat16": "engine",
    "graphs": "engine",
    "overlap": "engine",
    "decode": "steps",
    "prefill": "steps",
    "generate": "throughput",
    "classify": "throughput",
    "transformers": "throughput",
    "cuda_graph": "device",
    "collectives": "device",
    "tensor_parallel": "engine",
}
# Made once for each shape: single steps of all of them first, then whole workloads.
STEPS, WORKLOADS = ("decode", "prefill"), ("generate", "classify", "transformers")
ROOT = Path(__file__).resolve().parents[1]

Result = dict[str, Any]


class Job(NamedTuple):
    """A check, and the shape that it is about."""

    check: str
    shape: str


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Order the checks that were asked for."""
    for name in CHECKS:
        if name not in args.only:
            continue
        group = next((group for group in (STEPS, WORKLOADS) if name in group), ())
        if not group:
            yield Job(name, args.shapes[0])
        elif name == next(check for check in group if check in args.only):
            yield from (Job(c, s) for s in args.shapes for c in group if c in args.only)


def check_here(job: Job, device: str) -> Result:
    """Run one check in this process."""
    try:
        environment = importlib.import_module("benchmarks.checks.environment")
        module = importlib.import_module(f"benchmarks.checks.{CHECKS[job.check]}")
        details = getattr(module, job.check)(environment.Setup(device, job.shape))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        skipped = type(error).__name__ in {"SkippedError", "ParameterError"}
        reason = str(error) if skipped else f"{type(error).__name__}: {error}"
        return {"status": "skipped" if skipped else "failed", "reason": reason}
    return {"status": "ok", **details}


def check_apart(job: Job, device: str, timeout_s: float) -> Result:
    """Run one check in a child process; its last line of output is the result."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--here", "--only", job.check]
    command += ["--device", device, "--shapes", job.shape]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"not done in {timeout_s:.3g} s"}
    try:
        line: Result = json.loads(done.stdout.strip().rpartition("\n")[2])
    except json.JSONDecodeError:
        reason = f"ended with exit status {done.returncode}: {done.stderr[-500:].strip()}"
        return {"status": "failed", "reason": reason}
    return {key: value for key, value in line.items() if key not in {"check", "shape", "seconds"}}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", default=list(CHECKS), choices=CHECKS, metavar="CHECK")
    add("--device", default="cuda", choices=["cuda", "cpu"])
    add("--shapes", nargs="+", metavar="SHAPE", help="of steps and workloads; default: 2b 9b")
    add("--out", type=Path, metavar="DIR", help="keep all figures in DIR/gpu_check.json")
    add("--budget-s", type=float, default=1500.0, help="start no check after so many seconds")
    add("--timeout", type=float, default=300.0, help="seconds for each check")
    add("--here", action="store_true", help="in this process, one after the other; no table")
    args = parser.parse_args(argv)
    args.shapes = args.shapes or (["2b", "9b"] if args.device == "cuda" else ["tiny"])
    return args


def run(job: Job, args: argparse.Namespace, left_s: float, missing: list[str]) -> Result:
    """Run one check, or say why not."""
    if args.here:
        return check_here(job, args.device)
    if missing and CHECKS[job.check] != "device":
        return {"status": "skipped", "reason": f"install {' '.join(missing)}"}
    if left_s <= 0:
        return {"status": "skipped", "reason": "the time budget is spent"}
    return check_apart(job, args.device, min(args.timeout, left_s))


def keep(folder: Path, results: list[Result]) -> None:
    """Write what is known so far."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "checks": results}
    (folder / "gpu_check.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the checks and print their lines, then the table."""
    args = arguments(argv)
    results: list[Result] = []
    missing: list[str] = []
    began = time.perf_counter()
    for job in jobs(args):
        start = time.perf_counter()
        result = {
            "check": job.check,
            "shape": job.shape,
            **run(job, args, args.budget_s - (start - began), missing),
            "seconds": round(time.perf_counter() - start, 1),
        }
        missing = missing or result.get("missing", [])
        results.append(result)
        print(json.dumps(result), flush=True)
        if args.out is not None:
            keep(args.out, results)
    if not args.here:
        print(text(rows(results)))
    sys.exit(any(result["status"] == "failed" for result in results))


if __name__ == "__main__":
    main()
