"""Records of runs: one JSON line each, and a table that sets them side by side."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from model.config import ModelConfig

from .measure import spread_pct

TABLE_WIDTH = 200


@dataclass(frozen=True, slots=True)
class Record:
    """What one engine did on one workload; rates are of the median turn.

    Attributes:
        run: ISO, UTC: when the comparison began that this is part of.
        engine: its name; version, variant and settings say which one.
        precision: of its matmuls: "bfloat16", "float32" or "int8".
        shape: the checkpoint folder's name.
        architecture: its head.
        workload: NAME:COUNT[:SCALE], drawn with `seed`.
        prompt_tokens: of all requests; output_tokens likewise.
        walls_s: of the run that counts in each turn; loading and the warm-up are not in them.
        cpus_s: CPU seconds of the same runs; with one thread, fair even on a busy machine.
        gemm_gflop: useful matmul work, see `gemm_gflop`; a file holds it as a rate.
        ceiling_gflops: what matmuls of this precision reach, see ceiling.py; None: not measured.
        other_cores: cores that other processes kept busy, in the worst run that counts.
        tries: runs made.
        peak_rss_gib: of the process and its children, loading included, see memory.py.
        peak_gpu_gib: of tensors on the GPU.
        load_s: from the call to a loaded engine, without imports.
        start_s: from starting its process to a ready engine; both are the median turn's.
        same_answers_pct: requests answered exactly as by the first engine of the comparison.
    """

    run: str
    machine: dict[str, Any]
    engine: str
    version: str
    variant: str
    settings: str
    precision: str
    shape: str
    architecture: str
    dtype: str
    device: str
    threads: int
    workload: str
    seed: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    walls_s: tuple[float, ...]
    cpus_s: tuple[float, ...]
    gemm_gflop: float
    ceiling_gflops: float | None
    other_cores: float
    tries: int
    peak_rss_gib: float
    peak_gpu_gib: float
    load_s: float
    start_s: float
    same_answers_pct: float

    @property
    def wall_s(self) -> float:
        """The median turn."""
        return statistics.median(self.walls_s)

    @property
    def ceiling_pct(self) -> float | None:
        """The useful matmul work per second, in percent of what the machine's matmuls reach."""
        if self.ceiling_gflops is None:
            return None
        return 100 * self.gemm_gflop / self.wall_s / self.ceiling_gflops

    def line(self) -> dict[str, Any]:
        """Return what goes to a file: the fields, and the rates that follow from them."""
        both = self.prompt_tokens + self.output_tokens
        rates = {
            "requests_per_s": self.requests / self.wall_s,
            "prompt_tokens_per_s": self.prompt_tokens / self.wall_s,
            "output_tokens_per_s": self.output_tokens / self.wall_s,
            "total_tokens_per_s": both / self.wall_s,
            "gemm_gflops": self.gemm_gflop / self.wall_s,
            "ceiling_pct": self.ceiling_pct,
            "spread_pct": spread_pct(self.walls_s),
        }
        fields = asdict(self)
        del fields["gemm_gflop"]
        line = {"benchmark": "offline"} | fields | rates
        return {key: rounded(value) for key, value in line.items()}


def gemm_gflop(config: ModelConfig, prompt_tokens: int, output_tokens: int) -> float:
    """Return the useful matmul work in GFLOP: 2 for each weight that a token meets.

    Every prompt and output token meets the layers' projections, every output token the head too.
    It counts no attention, no padding, and a shared prefix as often as it was asked for: so
    computing a prefix once can lift the rate above what the machine's matmuls reach.
    """
    hidden, head_dim = config.hidden_size, config.head_dim
    attention = hidden * head_dim * (2 * config.num_attention_heads)
    attention += hidden * head_dim * (2 * config.num_key_value_heads)
    layers = config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size)
    generates = config.architecture == "causal_lm"
    head = hidden * (config.vocab_size if generates else len(config.labels))
    return 2e-9 * (layers * (prompt_tokens + output_tokens * generates) + head * output_tokens)


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def show(records: Sequence[Record], console: Console) -> None:
    """Print a table; the last column is the first engine's speed over this one's."""
    first = {record.workload: record for record in reversed(records)}
    table = Table(box=box.MARKDOWN)
    for name in ("workload", "engine"):
        table.add_column(name, no_wrap=True)
    names = ("out tok/s", "total tok/s", "GF/s", "ceiling", "runs, s", "CPU s", "RSS GiB")
    for name in (*names, "start s", f"{records[0].engine} is faster"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        line = record.line()
        share = record.ceiling_pct
        table.add_row(
            record.workload,
            " ".join(filter(None, (record.engine, record.variant, record.version))),
            f"{line['output_tokens_per_s']:.1f}",
            f"{line['total_tokens_per_s']:.1f}",
            f"{line['gemm_gflops']:.0f}",
            "" if share is None else f"{share:.0f}%",
            ", ".join(f"{wall:.2f}" for wall in record.walls_s),
            ", ".join(f"{cpu:.1f}" for cpu in record.cpus_s),
            f"{record.peak_rss_gib:.2f}",
            f"{record.start_s:.1f}",
            f"{record.wall_s / first[record.workload].wall_s:.2f}x",
        )
    console.print(table)


def rounded(value: Any) -> Any:
    """Round every number in a value to five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value
