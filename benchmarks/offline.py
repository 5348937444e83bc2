r"""Offline throughput: this engine beside others, on the same requests, in turns.

    python benchmarks/offline.py --shape mini --workload uniform:64 sharegpt:48:0.5
    python benchmarks/offline.py --checkpoint DIR --workload classify:32 --peers
    python benchmarks/offline.py --shape mini --workload uniform:64 \
        --ours bf16 int8:quantization=int8 --peers transformers vllm llama.cpp:q8_0:weights=q8_0

Prints a JSON line for each engine and workload, and a table on stderr. Each engine has a fresh
process in each turn; a run that other processes disturbed is repeated. Loading and a warm-up of
four other requests are outside the wall time. Greedy, end tokens ignored, and exactly the tokens
that were asked for: an engine that gives any other number is refused.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.checkpoints import SHAPES, ensure
from benchmarks.compare import Comparison
from benchmarks.measure import Quiet
from benchmarks.peers.launch import HOME, PEERS, Launch, PeerMissingError, prepare
from benchmarks.report import TABLE_WIDTH, append, show
from benchmarks.spec import OURS, BenchmarkError, Spec
from benchmarks.workloads import Workload
from model.config import ModelConfig
from model.errors import GemmarayError


def launches(specs: Sequence[Spec], home: Path) -> Iterator[Launch]:
    """Find the engines; one that is not installed is left out, with a line that says so."""
    for spec in specs:
        try:
            yield prepare(spec, home)
        except PeerMissingError as error:
            note(f"left out: {error}")


def specs(args: argparse.Namespace) -> list[Spec]:
    """Name the engines that were asked for, ours first."""
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = (args.checkpoint or ensure(args.shape, labels=args.labels)).resolve()
    ModelConfig.from_folder(folder)  # refused here, before minutes are spent
    ours = [(OURS, *variant(text)) for text in args.ours]
    return [
        Spec(name, folder, args.dtype, device, args.threads, label, settings)
        for name, label, settings in [*ours, *args.peers]
    ]


def peer(text: str) -> tuple[str, str, dict[str, Any]]:
    """Read ENGINE[:VARIANT[:KEY=VALUE,...]], or ENGINE:KEY=VALUE,..."""
    name, _, rest = text.partition(":")
    if name not in PEERS:
        raise argparse.ArgumentTypeError(f"there is no {name!r}, only {', '.join(PEERS)}")
    return name, *variant(rest)


def variant(text: str) -> tuple[str, dict[str, Any]]:
    """Read VARIANT[:KEY=VALUE,...]; settings without a name are named by themselves."""
    label, _, rest = text.partition(":")
    if "=" in label and not rest:
        rest = label
    return label, dict(setting(item) for item in rest.split(",") if item)


def setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, the value as JSON where it is JSON."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def note(line: str) -> None:
    """Tell people, not files."""
    print(line, file=sys.stderr, flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path, help="a local Hugging Face folder")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    add("--labels", type=int, default=0, help="with --shape: a classification head of this size")
    add("--workload", nargs="+", required=True, metavar="NAME:COUNT[:SCALE]")
    add(
        "--ours",
        nargs="+",
        default=[""],
        metavar="VARIANT[:KEY=VALUE,...]",
        help="variants of our engine: a name, and fields of EngineConfig",
    )
    add(
        "--peers",
        nargs="*",
        type=peer,
        default=[("transformers", "", {})],
        metavar="ENGINE[:VARIANT][:KEY=VALUE,...]",
        help=f"of {', '.join(PEERS)}, with settings of their own (see peers/)",
    )
    add("--peers-home", type=Path, default=HOME, help="where the peers are installed")
    add("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--no-ceiling", action="store_true", help="do not measure what matmuls reach")
    add("--out", type=Path, help="append the JSON lines to this file")
    add_quiet(parser)
    return parser.parse_args(argv)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how often a run is made, and when it counts."""
    quiet = Quiet()
    add = parser.add_argument
    add("--turns", type=int, default=3, help="runs that count, of each engine")
    add("--max-tries", type=int, default=quiet.max_tries, help="runs made in a turn at most")
    add(
        "--max-other",
        type=float,
        default=quiet.max_other,
        help="repeat a run during which other processes used more cores; inf accepts every run",
    )
    add("--patience", type=float, default=quiet.patience_s, help="seconds to wait for quiet")


def quiet_of(args: argparse.Namespace) -> Quiet:
    """Return what `add_quiet`'s options say."""
    return Quiet(args.max_other, args.max_tries, args.patience)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, print, and keep."""
    args = arguments(argv)
    try:
        workloads = [Workload.parse(text) for text in args.workload]
        wanted = specs(args)
        comparison = Comparison(
            list(launches(wanted, args.peers_home)),
            workloads,
            args.seed,
            args.turns,
            quiet_of(args),
            note,
        )
        has_ceiling = wanted[0].device == "cpu" and not args.no_ceiling
        records, failures = comparison.run(with_ceilings=has_ceiling)
    except (GemmarayError, BenchmarkError) as error:
        sys.exit(f"offline.py: {error}")
    for record in records:
        print(json.dumps(record.line()), flush=True)
        if args.out:
            append(args.out, record.line())
    show(records, Console(stderr=True, width=TABLE_WIDTH))
    if failures:
        sys.exit(f"offline.py: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
