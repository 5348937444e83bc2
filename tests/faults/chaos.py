"""The long form of the fault harness: `make chaos`.

    python -m tests.faults.chaos                        every row, at its full length
    python -m tests.faults.chaos commit --trials 1000   one of them
    python -m tests.faults.chaos --scale 0.02           all of them, shortened

It prints a table, and appends a line of JSON for each of its rows to --out: the seed, the faults
that were really delivered, rows lost and doubled. The status is 1 if a row is lost or doubled, or
if a control finds nothing.
"""

import argparse
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Figures = dict[str, Any]

TRIALS = {"commit": 1000, "controls": 60, "s3": 300, "driver": 50, "nodes": 60, "mutations": 2000}
ROWS = {"driver": 20_000, "nodes": 4_000, "spill": 20_000, "memory": 1_000_000}
NODE_SHARE, HEAD_SHARE = 15 / 60, 5 / 60  # of the kills, and one each; the rest are workers


def main() -> None:
    options = _options()
    if options.test == "all":
        sys.exit(_each_in_its_own_process(options))
    figures = []
    for line in TESTS[options.test](options):
        figures.append(line)
        print(json.dumps(line), flush=True)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    show(figures, Console(stderr=True))
    sys.exit(0 if all(line["ok"] for line in figures) else 1)


def show(figures: list[Figures], console: Console) -> None:
    """Print figures as a table."""
    columns = ("row", "test", "trials", "faults delivered", "lost", "doubled", "bad", "s", "")
    table = Table(*columns, box=box.SIMPLE)
    for line in figures:
        faults = ", ".join(f"{count} {name}" for name, count in line["faults"].items())
        verdict = "as it should be" if line["ok"] else "NOT as it should be"
        counts = (line["lost"], line["doubled"], line["bad_trials"], line["seconds"])
        table.add_row(
            str(line["row"]),
            line["test"],
            str(line["trials"]),
            faults,
            *map(str, counts),
            verdict,
        )
    console.print(table)


def commit(options: argparse.Namespace) -> Iterator[Figures]:
    """Row 1, and its controls."""
    from . import commit_kills  # noqa: PLC0415 - each test brings its own libraries along

    yield commit_kills.run("link", options.trials, options.seed)


def controls(options: argparse.Namespace) -> Iterator[Figures]:
    """The ways to commit that lose or double rows; --until-bad stops at the first that does."""
    from . import commit_kills  # noqa: PLC0415

    for way in ("marker", "in place"):
        yield commit_kills.run(way, options.trials, options.seed, until_bad=options.until_bad)


def s3(options: argparse.Namespace) -> Iterator[Figures]:
    """Row 2."""
    from . import s3_faults  # noqa: PLC0415

    yield s3_faults.run(options.trials, options.seed)


def failpoints(options: argparse.Namespace) -> Iterator[Figures]:
    """Row 3."""
    from . import failpoints as points  # noqa: PLC0415

    if options.where != "s3":
        for how in ("SIGKILL", "ENOSPC", "EIO"):
            yield points.run("local", how, every=options.every)
    if options.where != "local":
        yield points.run("s3", "SIGKILL", every=options.every)


def driver(options: argparse.Namespace) -> Iterator[Figures]:
    """Row 4."""
    from . import driver_kills, node_kills  # noqa: PLC0415

    address, cluster = options.address, None
    if not address:
        node_kills.prepare()
        cluster = node_kills.Nodes()
        address = cluster.address
    try:
        yield driver_kills.run(
            options.rows,
            options.trials,
            options.seed,
            address=address,
            unit_rows=options.unit_rows,
            engine=options.engine,
        )
    finally:
        if cluster:
            cluster.kill_all()


def nodes(options: argparse.Namespace) -> Iterator[Figures]:
    """Row 5."""
    from . import node_kills  # noqa: PLC0415

    lost_nodes, heads = (
        max(1, round(options.trials * share)) for share in (NODE_SHARE, HEAD_SHARE)
    )
    workers = options.trials - lost_nodes - heads
    yield node_kills.run(workers, lost_nodes, heads, options.rows, options.seed)


def spill(options: argparse.Namespace) -> Iterator[Figures]:
    """Of row 7, the object store that is too small."""
    from . import spill as spilling  # noqa: PLC0415

    yield spilling.run(options.rows)


def memory(options: argparse.Namespace) -> Iterator[Figures]:
    """Also of row 7, what jobs of a hundredth, a tenth and all of the rows take."""
    from . import peaks  # noqa: PLC0415

    for part in (100, 10, 1):
        yield peaks.run(options.rows // part)


def mutations(options: argparse.Namespace) -> Iterator[Figures]:
    """Row 8."""
    from . import mutations as damage  # noqa: PLC0415

    yield damage.run(options.trials)


TESTS: dict[str, Callable[[argparse.Namespace], Iterator[Figures]]] = {
    "commit": commit,
    "controls": controls,
    "s3": s3,
    "failpoints": failpoints,
    "driver": driver,
    "nodes": nodes,
    "spill": spill,
    "memory": memory,
    "mutations": mutations,
}


def _each_in_its_own_process(options: argparse.Namespace) -> int:
    """Run all tests, some of which fork and some of which start Ray; give the worst status."""
    status = 0
    for test in TESTS:
        command = [sys.executable, "-m", "tests.faults.chaos", test, f"--seed={options.seed}"]
        if test in TRIALS:
            command.append(f"--trials={max(1, round(TRIALS[test] * options.scale))}")
        if test in ROWS:
            command.append(f"--rows={max(500, round(ROWS[test] * options.scale))}")
        if test == "failpoints":
            command.append(f"--every={max(1, round(1 / options.scale))}")
        if options.out:
            command.append(f"--out={options.out}")
        status = max(status, subprocess.run(command, check=False).returncode)
    return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("test", nargs="?", choices=[*TESTS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=None, help="drawn and printed by default")
    parser.add_argument("--out", type=Path, help="file to append the figures to, as JSON lines")
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths, with all")
    parser.add_argument("--trials", type=int, help="trials, or kills")
    parser.add_argument("--rows", type=int, help="of the job, with driver, nodes, spill and memory")
    parser.add_argument("--unit-rows", type=int, default=32, help="rows per unit, with driver")
    parser.add_argument("--every", type=int, default=1, help="lines, with failpoints")
    parser.add_argument("--where", choices=["local", "s3"], help="only there, with failpoints")
    parser.add_argument("--until-bad", action="store_true", help="with controls")
    parser.add_argument("--address", help="of a Ray cluster, with driver")
    parser.add_argument("--engine", choices=["stub", "own"], default="stub", help="with driver")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = secrets.randbelow(1_000_000)
    options.trials = options.trials or TRIALS.get(options.test)
    options.rows = options.rows or ROWS.get(options.test)
    return options


if __name__ == "__main__":
    main()
