"""The whole CPU table: what `make bench` runs.

    python benchmarks/bench.py                 everything; 80 minutes with all peers
    python benchmarks/bench.py mini            offline.py on the small shape
    python benchmarks/bench.py 2b              offline.py on the 2B shape
    python benchmarks/bench.py job             whole_job.py

Ours in bfloat16 and int8 beside transformers, vLLM and llama.cpp, those that are installed. Each
part appends to the same file under benchmarks/results, named by hardware and date, when it is
complete; the tables of that file are printed at the end. A part that fails does not end the others.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.checkpoints import CHECKPOINTS, ensure
from benchmarks.measure import machine
from benchmarks.offline import note
from benchmarks.peers.launch import HOME, REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
# Each engine as its own documents advise, and as far as 24 GiB of memory allow.
PARTS: dict[str, tuple[str, ...]] = {
    "mini": (
        *("offline.py", "--workload"),
        *("uniform:64", "sharegpt:48:0.5", "shared-prefix:32", "classify:32"),
        *("--peers", "transformers", "vllm", "llama.cpp", "llama.cpp:q8_0:weights=q8_0"),
    ),
    "2b": (
        *("offline.py", "--workload", "uniform:16", "classify:8", "--peers"),
        "transformers::batch=16",
        "vllm::kv_gib=2,max_model_len=1024",
        "llama.cpp::parallel=16,context=640",
    ),
    # vLLM also with a small reservation for keys and values: most of its memory is that.
    "job": (
        *("whole_job.py", "--peers"),
        *("transformers", "vllm", "vllm:kv1:kv_gib=1", "llama.cpp"),
    ),
}
SHAPES = {"mini": "mini", "2b": "2b", "job": "mini"}


def command(name: str, checkpoint: Path, args: argparse.Namespace, out: Path) -> list[str]:
    """Return the command line of one part."""
    script, *options = PARTS[name]
    quiet = ["--turns", str(args.turns), "--max-other", str(args.max_other)]
    return [
        sys.executable,
        str(REPOSITORY / "benchmarks" / script),
        *("--checkpoint", str(checkpoint), *options, "--ours", *args.ours),
        *("--threads", str(args.threads), "--peers-home", str(args.peers_home)),
        *(*quiet, "--out", str(out)),
    ]


def results_file(described: dict[str, Any], day: str) -> Path:
    """Name the file by hardware and date."""
    hardware = re.sub(r"[^a-z0-9]+", "-", described["cpu"].lower()).strip("-")
    return RESULTS / f"{hardware}-{described['cores']}-cores-{day}.jsonl"


def part(text: str) -> str:
    """Check the name of a part."""
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"there is no part {text!r}, only {', '.join(PARTS)}")
    return text


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("parts", nargs="*", type=part, metavar="PART", help=f"of {', '.join(PARTS)}; all if none")
    add("--ours", nargs="+", default=["bf16", "int8:quantization=int8"], help="see offline.py")
    add("--turns", type=int, default=3, help="runs that count, of each engine and workload")
    add("--threads", type=int, default=2)
    add("--max-other", type=float, default=0.05, help="see offline.py")
    add("--checkpoints", type=Path, default=CHECKPOINTS, help="where `mini` and `2b` lie")
    add("--peers-home", type=Path, default=HOME, help="where the peers are installed")
    add("--out", type=Path, help="the results file, if not one named by hardware and date")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts, and print the tables."""
    args = arguments(argv)
    out = args.out or results_file(machine(), f"{datetime.now(UTC):%Y-%m-%d}")
    failed = []
    for name in args.parts or PARTS:
        shape = SHAPES[name]
        checkpoint = ensure(shape, folder=args.checkpoints / shape)
        note(f"== {name}, into {out}")
        if subprocess.run(command(name, checkpoint, args, out), check=False).returncode:
            failed.append(name)
    if out.exists():
        subprocess.run([sys.executable, str(REPOSITORY / "benchmarks/tables.py"), out], check=True)
    if failed:
        sys.exit(f"bench.py: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
