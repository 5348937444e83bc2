"""What to run first on a machine with a GPU: one JSON line per check, whatever fails.

    python benchmarks/gpu_check.py [--only versions flash ...] [--shape 2b] [--device cpu]

Each check runs in a process of its own: one that hangs, crashes or breaks the CUDA context leaves
the others alone. `--device cpu` tries what a CPU can do. Ends with status 1 if any check failed.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Which module of `checks` has the check; imported by the child that runs it, for its imports may
# be what fails.
CHECKS = {
    "versions": "device",
    "ceilings": "device",
    "collectives": "device",
    "cuda_graph": "device",
    "fp8": "device",
    "flex": "device",
    "flash": "attention",
    "reference": "attention",
    "parity": "engine",
    "bfloat16": "engine",
    "tensor_parallel": "engine",
    "capture": "engine",
    "throughput": "engine",
}
ROOT = Path(__file__).resolve().parents[1]


def check_here(name: str, device: str, shape: str) -> dict[str, Any]:
    """Run one check in this process."""
    try:
        environment = importlib.import_module("benchmarks.checks.environment")
        module = importlib.import_module(f"benchmarks.checks.{CHECKS[name]}")
        details = getattr(module, name)(environment.Setup(device, shape))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        skipped = type(error).__name__ == "SkippedError"
        reason = str(error) if skipped else f"{type(error).__name__}: {error}"
        return {"status": "skipped" if skipped else "failed", "reason": reason}
    return {"status": "ok", **details}


def check_apart(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one check in a child process; its last line of output is the result."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--here", "--only", name]
    command += ["--device", args.device, "--shape", args.shape]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=args.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"check": name, "status": "failed", "reason": f"not done in {args.timeout:g} s"}
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except json.JSONDecodeError:
        return {
            "check": name,
            "status": "failed",
            "reason": f"ended with exit status {done.returncode}: {done.stderr[-500:].strip()}",
        }
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", default=list(CHECKS), choices=CHECKS, metavar="CHECK")
    add("--device", default="cuda", choices=["cuda", "cpu"])
    add("--shape", default="mini", help="checkpoint of the throughput check (mini, 2b, ...)")
    add("--timeout", type=float, default=300.0, help="seconds for each check")
    add("--here", action="store_true", help="in this process, one after the other")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the checks and print their lines."""
    args = arguments(argv)
    failed = False
    for name in args.only:
        start = time.perf_counter()
        if args.here:
            result = {"check": name, **check_here(name, args.device, args.shape)}
        else:
            result = check_apart(name, args)
        result["seconds"] = round(time.perf_counter() - start, 1)
        failed = failed or result["status"] == "failed"
        print(json.dumps(result), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
