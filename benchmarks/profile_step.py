"""Where a step's time goes: the engine's own share of the wall, and each part of the model.

    python benchmarks/profile_step.py --shape mini --workload uniform:16 [--cprofile 25]

Timers are put around functions of the engine from outside, so it carries no hooks. Each part's
seconds leave out the parts that it calls; together they are the whole wall time. On a GPU each
border waits for the device, so that work is charged to who asked for it: the run is slower then,
and the plain run's wall is printed for comparison.
"""

import argparse
import cProfile
import functools
import pstats
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoints import SHAPES, ensure
from benchmarks.contenders import Gemmaray, Spec
from benchmarks.offline import setting
from benchmarks.report import TABLE_WIDTH
from benchmarks.workloads import Request, Workload
from model import block, gemma2, layers
from model.attention import AttentionBackend
from model.detokenizer import Detokenizer
from model.engine import core, flight, queries
from model.engine.completion import CompletionReader
from model.engine.scheduler import Scheduler
from model.errors import GemmarayError
from model.hybrid_cache import HybridCache
from model.kernels import Kernels

REST = "outside of steps"


class Part(NamedTuple):
    """A function whose time is told apart, and whether it is the engine's or the model's."""

    label: str
    side: str
    owner: Any
    function: str


PARTS = (
    Part("schedule", "engine", Scheduler, "schedule"),
    Part("pack", "engine", flight, "pack"),
    Part("plan attention", "engine", gemma2.Gemma2, "plan"),
    Part("accept tokens", "engine", CompletionReader, "accept"),
    Part("detokenize", "engine", Detokenizer, "push"),
    Part("trim pages", "engine", HybridCache, "trim"),
    Part("complete", "engine", Scheduler, "launched"),
    Part("complete", "engine", Scheduler, "settle"),
    Part("updates", "engine", core.EngineCore, "_updates"),
    Part("rest of step", "engine", core.EngineCore, "step"),
    Part("sample", "model", queries, "start_sampling"),
    Part("head", "model", gemma2.Gemma2, "logits"),
    Part("rest of forward", "model", gemma2.Gemma2, "forward"),
    Part("residuals", "model", block.Gemma2Layer, "forward"),
    Part("norms", "model", layers.RMSNorm, "forward"),
    Part("norms", "model", layers.RMSNorm, "add"),
    Part("rest of attention", "model", block.Gemma2Attention, "forward"),
    Part("linears", "model", layers.ColumnParallelLinear, "forward"),
    Part("linears", "model", layers.RowParallelLinear, "forward"),
    Part("rest of MLP", "model", layers.GatedMLP, "forward"),
)


class Stopwatch:
    """Charges every moment to the innermost part that is running.

    Args:
        clock: in seconds.
        settle: called at each border, before the clock is read.
    """

    def __init__(self, clock: Callable[[], float], settle: Callable[[], None]) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._clock = clock
        self._settle = settle
        self._stack = [REST]
        self._since = 0.0

    def start(self) -> None:
        """Begin."""
        self._settle()
        self._since = self._clock()

    def stop(self) -> None:
        """Charge what has passed since the last border."""
        self._settle()
        now = self._clock()
        # A Counter holds any numbers; its type says integers.
        self.seconds[self._stack[-1]] += now - self._since  # type: ignore[assignment]
        self._since = now

    def around(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is timed as a part."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.stop()
            self._stack.append(label)
            self.calls[label] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.stop()
                self._stack.pop()

        return timed


@contextmanager
def timers(watch: Stopwatch) -> Iterator[None]:
    """Put a timer around every part, and around what every backend and all kernels do."""
    backends = [
        *[Part("attention", "model", kind, "attend") for kind in AttentionBackend.__subclasses__()],
        *[Part("rotate", "model", kind, "rotate_and_store") for kind in Kernels.__subclasses__()],
    ]
    with ExitStack() as stack:
        for part in (*PARTS, *backends):
            function = getattr(part.owner, part.function)
            timed = watch.around(part.label, function)
            stack.enter_context(patch.object(part.owner, part.function, timed))
        yield


def show(watch: Stopwatch, steps: int, plain_s: float, console: Console) -> None:
    """Print the parts, the largest first, and the two sides' shares."""
    sides = {part.label: part.side for part in PARTS} | {
        "attention": "model",
        "rotate": "model",
        REST: "engine",
    }
    total = sum(watch.seconds.values())
    table = Table(box=box.MARKDOWN)
    for name in ("part", "side"):
        table.add_column(name)
    for name in ("seconds", "share", "us/step", "calls"):
        table.add_column(name, justify="right")
    for label, seconds in watch.seconds.most_common():
        table.add_row(
            label,
            sides[label],
            f"{seconds:.3f}",
            f"{seconds / total:.1%}",
            f"{1e6 * seconds / steps:.0f}",
            str(watch.calls[label]),
        )
    own = sum(s for label, s in watch.seconds.items() if sides[label] == "engine")
    console.print(table)
    console.print(
        f"{steps} steps, {total:.2f} s with timers, {plain_s:.2f} s without; the engine's own "
        f"share is {own / total:.1%}, {1e6 * own / steps:.0f} us per step"
    )


def profile(
    contender: Gemmaray, requests: Sequence[Request], clock: Callable[[], float], console: Console
) -> None:
    """Run once as it is, and once with timers."""
    settle = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    start = clock()
    contender.run(requests)
    plain_s = clock() - start
    steps = contender.engine.stats.steps
    watch = Stopwatch(clock, settle)
    with timers(watch):
        watch.start()
        contender.run(requests)
        watch.stop()
    show(watch, contender.engine.stats.steps - steps, plain_s, console)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path, help="a local Hugging Face folder")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    add("--workload", required=True, metavar="NAME:COUNT[:SCALE]")
    add("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--threads", type=int, default=2)
    add("--set", nargs="*", type=setting, metavar="KEY=VALUE", help="EngineConfig fields")
    add(
        "--cpu-time",
        action="store_true",
        help="seconds of CPU instead of the wall: for a busy machine, with --threads 1",
    )
    add("--cprofile", type=int, default=0, metavar="N", help="also the N costliest functions")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Profile one workload."""
    args = arguments(argv)
    try:
        workload = Workload.parse(args.workload)
        folder = args.checkpoint or ensure(args.shape)
        settings = dict(args.set or ())
        contender = Gemmaray(
            Spec("gemmaray", folder, args.dtype, args.device, args.threads, settings=settings)
        )
    except GemmarayError as error:
        sys.exit(f"profile_step.py: {error}")
    contender.run(workload.warm_up())
    requests = workload.requests()
    clock = time.process_time if args.cpu_time else time.perf_counter
    profile(contender, requests, clock, Console(width=TABLE_WIDTH))
    if args.cprofile:
        profiler = cProfile.Profile()
        profiler.runcall(contender.run, requests)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(args.cprofile)
    contender.close()


if __name__ == "__main__":
    main()
