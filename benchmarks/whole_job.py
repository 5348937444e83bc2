"""A whole job, from the command to the last row: start-up counts, as it does for who waits.

    python benchmarks/whole_job.py --shape mini --peers transformers vllm

Every engine, in turns, as a command of its own that starts cold (no process, warm disk cache),
loads, answers 64 requests of 128 tokens with 64 tokens each, and writes a line for each. Ours also
as `gemmaray run`: Ray, one replica, Parquet to Parquet, prompts of as many tokens as text. And the
first token of the demo model. Prints a JSON line for each, with seconds since the command:

    ready_s     the engine is loaded (not known of `gemmaray run`)
    last_row_s  the last answer is written (for `gemmaray run`: it has ended)
    exit_s      the command has ended
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.checkpoints import SHAPES, ensure
from benchmarks.compare import GIB
from benchmarks.measure import Quiet, Timing, adopt_orphans, machine, reap_orphans, timed
from benchmarks.memory import MemoryWatch
from benchmarks.offline import add_quiet, launches, note, peer, quiet_of, variant
from benchmarks.peers.launch import HOME, REPOSITORY, Launch
from benchmarks.report import append, rounded
from benchmarks.spec import OURS, BenchmarkError, Request, Spec
from benchmarks.workloads import Workload
from model.errors import GemmarayError

DEMO_MODEL = REPOSITORY / "examples" / "demo-model" / "causal-lm"
FIRST_TOKEN = Workload("uniform", 1)
ORPHANS_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command took, in seconds since it was given; see the module's text."""

    version: str
    settings: str
    ready_s: float | None
    last_row_s: float
    exit_s: float
    peak_rss: int
    timing: Timing


@dataclass(frozen=True, slots=True)
class Case:
    """A command that is measured.

    Attributes:
        job: "engine", "gemmaray run" or "first token".
        spec: of its engine.
        workload: what it computes.
        run: does it once.
    """

    job: str
    spec: Spec
    workload: Workload
    run: Callable[[], Outcome]


def engine_job(launch: Launch, requests: Sequence[Request]) -> Outcome:
    """Let a bare engine do one job in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answers = Path(folder, "requests.jsonl"), Path(folder, "answers.jsonl")
        asked.write_text("".join(json.dumps(request) + "\n" for request in requests))
        files = ["--requests", str(asked), "--answers", str(answers)]
        start, exit_s, peak, timing = _measured(launch.command(*files), launch.environ())
        *rows, times = [json.loads(line) for line in answers.read_text().splitlines()]
    wanted = [request.output_len for request in requests]
    if [len(row) for row in rows] != wanted:
        raise BenchmarkError(f"{launch.spec.label} gave other rows than it was asked for")
    return Outcome(
        times["version"],
        times["settings"],
        times["ready"] - start,
        times["done"] - start,
        exit_s,
        peak,
        timing,
    )


def ray_job(spec: Spec, workload: Workload) -> Outcome:
    """Let `gemmaray run` do the job on a Ray of its own, one replica with all threads."""
    prompt, output_len = workload.requests()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows, job, out = Path(folder, "rows.parquet"), Path(folder, "job.yaml"), Path(folder, "out")
        texts = prompts(spec.checkpoint, workload.count, len(prompt))
        pq.write_table(pa.table({"text": texts}), rows)
        generate = {"max_tokens": output_len, "ignore_eos": True}
        described = {
            "input": str(rows),
            "output": str(out),
            "model": str(spec.checkpoint),
            "prompt": "{text}",
            "chat": "raw",
            "tasks": [{"generate": generate}],
            "resources": {"replicas": 1, "threads": spec.threads, **spec.settings},
        }
        job.write_text(json.dumps(described))  # JSON is YAML
        command = [str(Path(sys.executable).with_name("gemmaray")), "run", str(job)]
        _, exit_s, peak, timing = _measured(command, dict(os.environ))
        table = pq.read_table(out)
    tokens = table["prompt_tokens"].to_pylist(), table["completion_tokens"].to_pylist()
    if tokens != ([len(prompt)] * workload.count, [output_len] * workload.count):
        raise BenchmarkError("gemmaray run gave other rows than it was asked for")
    return Outcome("", "1 replica", None, exit_s, exit_s, peak, timing)


def prompts(checkpoint: Path, count: int, length: int) -> list[str]:
    """Write texts of exactly `length` tokens, <bos> included, in words of the vocabulary."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    words = sorted(
        piece[1:] for piece in tokenizer.get_vocab() if piece[0] == "▁" and piece[1:].isalpha()
    )
    draw = random.Random(count)
    texts = []
    for _ in range(count):
        chosen = draw.choices(words, k=length)
        while len(tokenizer.encode(" ".join(chosen)).ids) > length:
            chosen.pop()
        texts.append(" ".join(chosen))
    return texts


def _measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, int, Timing]:
    """Run a command to its end: when it began (epoch), its seconds, peak bytes, and the timing."""
    with tempfile.TemporaryFile() as log:
        start = time.time()
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            with MemoryWatch(process.pid) as memory:
                exit_s, timing = timed(lambda: _ended_after(process, start))
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise BenchmarkError(f"{command[0]} failed: {lines[-1] if lines else '?'}")
    return start, exit_s, memory.peak, timing


def _ended_after(process: subprocess.Popen[bytes], start: float) -> float:
    """Wait for a command, and then for what it has left running: reaped, its CPU time counts."""
    process.wait()
    exit_s = time.time() - start
    reap_orphans(ORPHANS_TIMEOUT_S)
    return exit_s


def cases(args: argparse.Namespace) -> list[Case]:
    """Name all that is measured, the engines first."""
    folder = (args.checkpoint or ensure(args.shape)).resolve()
    workload = Workload.parse(args.workload)
    requests = workload.requests()
    if len({(len(request.prompt), request.output_len) for request in requests}) > 1:
        raise BenchmarkError(f"workload {workload}: all its requests must be of one size")
    base = Spec(OURS, folder, "bfloat16", "cpu", args.threads)
    ours = [
        replace(base, variant=label, settings=settings)
        for label, settings in map(variant, args.ours)
    ]
    others = [
        replace(base, name=name, variant=label, settings=settings)
        for name, label, settings in args.peers
    ]
    found: list[Case] = []
    for launch in launches([*ours, *others], args.peers_home):
        job = lambda launch=launch: engine_job(launch, requests)  # noqa: E731
        found.append(Case("engine", launch.spec, workload, job))
    found += [
        Case("gemmaray run", spec, workload, lambda spec=spec: ray_job(spec, workload))
        for spec in ours
    ]
    demo = replace(base, checkpoint=DEMO_MODEL)
    (launch,) = launches([demo], args.peers_home)
    first = FIRST_TOKEN.requests()[0]._replace(output_len=1)
    found.append(Case("first token", demo, FIRST_TOKEN, lambda: engine_job(launch, [first])))
    return found


def measure(cases: Sequence[Case], turns: int, quiet: Quiet) -> list[dict[str, Any]]:
    """Do everything in turns; a line for each case, but for those that fail."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    outcomes: dict[int, list[Outcome]] = {number: [] for number in range(len(cases))}
    for turn in range(turns):
        for number, own in list(outcomes.items()):
            what = f"turn {turn + 1}: {cases[number].spec.label}, {cases[number].job}"
            try:
                own.append(quietest(cases[number], quiet))
            except BenchmarkError as error:
                note(f"{what}: left out from here on: {error}")
                del outcomes[number]
            else:
                others = own[-1].timing.other_cores
                note(f"{what}: {own[-1].last_row_s:.2f} s, others {others:.2f} cores")
    return [line(began, cases[number], own) for number, own in outcomes.items()]


def quietest(case: Case, quiet: Quiet) -> Outcome:
    """Do one case until nothing disturbed it."""
    tries: list[Outcome] = []
    while not tries or not quiet.enough([outcome.timing for outcome in tries]):
        quiet.wait()
        tries.append(case.run())
    return min(tries, key=lambda outcome: outcome.timing.other_cores)


def line(began: str, case: Case, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Describe one case's turns, as a results file has it."""
    return {
        "benchmark": "whole_job",
        "run": began,
        "machine": machine(),
        "job": case.job,
        "engine": case.spec.name,
        "version": outcomes[0].version,
        "variant": case.spec.variant,
        "settings": outcomes[0].settings,
        "shape": case.spec.checkpoint.name,
        "threads": case.spec.threads,
        "workload": str(case.workload),
        "ready_s": rounded([outcome.ready_s for outcome in outcomes]),
        "last_row_s": rounded([outcome.last_row_s for outcome in outcomes]),
        "exit_s": rounded([outcome.exit_s for outcome in outcomes]),
        "peak_rss_gib": rounded(max(outcome.peak_rss for outcome in outcomes) / GIB),
        "other_cores": rounded(max(outcome.timing.other_cores for outcome in outcomes)),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path, help="a local Hugging Face folder")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    add("--workload", default="uniform:64", metavar="NAME:COUNT[:SCALE]", help="of one size")
    add("--ours", nargs="+", default=[""], metavar="VARIANT[:KEY=VALUE,...]")
    add(
        "--peers",
        nargs="*",
        type=peer,
        default=[("transformers", "", {})],
        metavar="ENGINE[:VARIANT][:KEY=VALUE,...]",
    )
    add("--peers-home", type=Path, default=HOME, help="where the peers are installed")
    add("--threads", type=int, default=2)
    add("--out", type=Path, help="append the JSON lines to this file")
    add_quiet(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    args = arguments(argv)
    adopt_orphans()
    try:
        planned = cases(args)
        lines = measure(planned, args.turns, quiet_of(args))
    except (GemmarayError, BenchmarkError) as error:
        sys.exit(f"whole_job.py: {error}")
    for result in lines:
        print(json.dumps(result), flush=True)
        if args.out:
            append(args.out, result)
    if len(lines) < len(planned):
        sys.exit(f"whole_job.py: failed: {len(planned) - len(lines)} of {len(planned)}; see above")


if __name__ == "__main__":
    main()
