"""A shard of rows that share prefixes, larger together than the cache: what the schedule is worth.

    python benchmarks/shard_schedule.py --shape tiny --prefixes 20 --rows 50

Rows come in random order. For each way of scheduling: how often a prefix was computed (1 is ideal),
prompt tokens computed, steps, and the time until the last row. Runs take turns; the median counts.
"""

import argparse
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoints import SHAPES, ensure
from benchmarks.measure import timed
from benchmarks.workloads import BOS, FIRST_ID, LAST_ID
from model import Engine, EngineConfig, SamplingParams
from model.config import ModelConfig
from model.engine.scheduler import Scheduler
from model.engine.sequence import Chunk
from model.errors import GemmarayError
from model.kv_cache import KVCache

PAGE = 16
SCHEDULES: dict[str, dict[str, Any]] = {
    "shard": {"schedule": "shard"},
    "fcfs": {"schedule": "fcfs"},
    "fcfs, no prefix cache": {"schedule": "fcfs", "prefix_caching": False},
}


class Row(NamedTuple):
    """One row: which prefix it has, its prompt, and how long its answer is."""

    prefix: int
    prompt: list[int]
    output_len: int


def shard(prefixes: int, rows: int, prefix_len: int, seed: int = 0) -> list[Row]:
    """Draw a shard: 8..24 tokens of each row's own, 4..32 tokens out."""
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [rng.randrange(FIRST_ID, LAST_ID) for _ in range(count)]

    heads = [[BOS, *ids(prefix_len - 1)] for _ in range(prefixes)]
    drawn = [
        Row(number, head + ids(rng.randint(8, 24)), rng.randint(4, 32))
        for number, head in enumerate(heads)
        for _ in range(rows)
    ]
    rng.shuffle(drawn)
    return drawn


@contextmanager
def counted(shard_rows: Sequence[Row], prefix_len: int) -> Iterator[Counter[int]]:
    """Count the tokens of each prefix that are computed meanwhile."""
    owner = {tuple(row.prompt[:prefix_len]): row.prefix for row in shard_rows}
    counts: Counter[int] = Counter()
    launched = Scheduler.launched

    def counting(self: Scheduler, chunk: Chunk) -> None:
        if chunk.sequence.is_prompt and chunk.start < prefix_len:
            prefix = owner[tuple(chunk.sequence.tokens[:prefix_len])]
            counts[prefix] += min(chunk.start + chunk.count, prefix_len) - chunk.start
        launched(self, chunk)

    with patch.object(Scheduler, "launched", counting):
        yield counts


def measure(engine: Engine, rows: Sequence[Row], prefix_len: int) -> dict[str, float]:
    """Run a shard on an engine that remembers nothing of it."""
    engine.forget_prefixes()
    steps, tokens = engine.stats.steps, engine.stats.prompt_tokens
    params = [SamplingParams(max_tokens=row.output_len, ignore_eos=True) for row in rows]
    prompts = [row.prompt for row in rows]
    with counted(rows, prefix_len) as counts:
        _, timing = timed(lambda: engine.generate(prompts, params))
    times = [count / prefix_len for count in counts.values()]
    return {
        "prefix_computed_mean": round(statistics.mean(times), 3),
        "prefix_computed_most": round(max(times), 3),
        "prompt_tokens": engine.stats.prompt_tokens - tokens,
        "steps": engine.stats.steps - steps,
        "wall_s": round(timing.wall_s, 3),
        "cpu_s": round(timing.cpu_s, 3),
    }


def show(results: dict[str, dict[str, float]], note: str, console: Console) -> None:
    """Print a table, times as ratios to the first."""
    table = Table(title=note, title_justify="left")
    for column in ("schedule", "each prefix computed", "prompt tokens", "steps", "makespan"):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    best = next(iter(results.values()))["cpu_s"]
    for name, figures in results.items():
        mean, most = figures["prefix_computed_mean"], figures["prefix_computed_most"]
        table.add_row(
            name,
            f"{mean:.2f}x, at most {most:.2f}x",
            f"{figures['prompt_tokens']:,.0f}",
            f"{figures['steps']:.0f}",
            f"{figures['cpu_s']:.2f} cpu s ({figures['cpu_s'] / best:.2f}x)",
        )
    console.print(table)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--shape", default="tiny", choices=SHAPES, help="random weights of this shape")
    add("--checkpoint", type=Path, help="a local Hugging Face folder instead")
    add("--prefixes", type=int, default=20)
    add("--rows", type=int, default=50, help="of each prefix")
    add("--prefix-len", type=int, default=320, help="tokens")
    add("--pages", type=int, default=200, help="KV pages of 16 tokens; the prefixes need more")
    add("--repeat", type=int, default=1)
    add("--threads", type=int, default=1)
    add("--out", type=Path, help="append the JSON line to this file too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one shard under each schedule, in turns."""
    args = arguments(argv)
    try:
        folder = args.checkpoint or ensure(args.shape)
        config = ModelConfig.from_folder(folder)
        page_bytes = KVCache.bytes_per_page(config, PAGE, config.num_key_value_heads, torch.float32)
        common: dict[str, Any] = {
            "checkpoint": str(folder),
            "dtype": "float32",
            "device": "cpu",
            "page_size": PAGE,
            "kv_cache_bytes": args.pages * page_bytes,
            "threads": args.threads,
        }
        engines = {name: Engine(EngineConfig(**common, **s)) for name, s in SCHEDULES.items()}
    except GemmarayError as error:
        sys.exit(f"shard_schedule.py: {error}")
    rows = shard(args.prefixes, args.rows, args.prefix_len)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for _ in range(args.repeat):
        for name, engine in engines.items():
            runs[name].append(measure(engine, rows, args.prefix_len))
    for engine in engines.values():
        engine.close()
    results = {
        name: sorted(figures, key=lambda run: run["cpu_s"])[len(figures) // 2]
        for name, figures in runs.items()
    }
    own = sum(len(row.prompt) - args.prefix_len for row in rows)
    ideal = args.prefixes * args.prefix_len + own
    line = {
        "benchmark": "shard_schedule",
        **{key: value for key, value in vars(args).items() if not isinstance(value, Path)},
        "ideal_prompt_tokens": ideal,
        "schedules": results,
    }
    note = f"{len(rows)} rows, {args.prefixes} prefixes; {ideal:,} prompt tokens at the least"
    show(results, note, Console(width=110))
    print(json.dumps(line))
    if args.out:
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
