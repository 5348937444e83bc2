r"""Online serving under load, beside other servers on the same checkpoint, and beside our engine.

    python benchmarks/online.py --shape mini --peers vllm transformers:cb:--continuous-batching=

One run: the offline engine answers all requests at once; that many per second is the capacity. Then
each server, started as its users start it, gets the same chats from vLLM's load generator, a
process of its own: first as many at once as keep it full, then at random moments at each of
--shares of the capacity; more than 1 is overload. Prints a JSON line for each, and a table on
stderr. Everything shares one machine, the generator too.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.checkpoints import SHAPES, ensure
from benchmarks.load import METRICS, PERCENTILES, Load, drive
from benchmarks.measure import machine
from benchmarks.offline import note, peer, variant
from benchmarks.peers.launch import HOME, INSTALL, REPOSITORY, PeerMissingError, prepare
from benchmarks.report import TABLE_WIDTH, append
from benchmarks.servers import model_name, running
from benchmarks.spec import OURS, BenchmarkError, Request, Spec
from benchmarks.whole_job import prompts
from benchmarks.worker import Worker
from model.errors import GemmarayError
from model.tokenizer import load_tokenizer

DEMO_CONFIG = REPOSITORY / "examples" / "demo-model" / "causal-lm" / "tokenizer_config.json"


def with_template(folder: Path) -> Path:
    """Give the checkpoint Gemma's chat template, in a folder of links beside it."""
    chat = folder.with_name(f"{folder.name}-chat")
    chat.mkdir(exist_ok=True)
    for file in folder.iterdir():
        link = chat / file.name
        if not link.exists():
            link.symlink_to(file.resolve())
    template = json.loads(DEMO_CONFIG.read_text(encoding="utf-8"))["chat_template"]
    (chat / "chat_template.jinja").write_text(template, encoding="utf-8")
    return chat


def capacity(spec: Spec, texts: Sequence[str], output_len: int) -> dict[str, Any]:
    """Have the bare engine answer all chats at once."""
    tokenizer = load_tokenizer(spec.checkpoint)
    assert tokenizer is not None
    requests = [
        Request(tokenizer.encode_messages([{"role": "user", "content": text}]), output_len)
        for text in texts
    ]
    with Worker(prepare(spec, HOME)) as worker:
        worker.run(requests[:4])
        wall = worker.run(requests).timing.wall_s
    return {"request_rate": len(texts) / wall, "token_rate": len(texts) * output_len / wall}


def measured(
    spec: Spec, args: argparse.Namespace, texts: Sequence[str], rate: float
) -> Iterator[dict[str, Any]]:
    """Load one server in all ways."""
    vllm = args.peers_home.resolve() / "vllm" / "bin" / "python"
    if not vllm.exists():
        raise PeerMissingError(f"the load generator is vLLM's ({vllm}): run {INSTALL}")
    left = iter(texts)  # no load meets prompts that an earlier one has left in a cache
    with running(spec, args.peers_home) as url:
        for share in (None, *args.shares):
            count = args.requests * (args.overload if share is not None and share > 1 else 1)
            asked_rate = None if share is None else share * rate
            concurrency = args.concurrency if share is None else None
            load = Load(list(islice(left, count)), args.output, asked_rate, concurrency)
            seen = drive(vllm, url, model_name(spec), spec.checkpoint, load)
            yield {"load": "full" if share is None else share, "asked_rate": asked_rate, **seen}


def show(lines: Sequence[dict[str, Any]], console: Console) -> None:
    """Print a table; rates are shares of what the engine does offline."""
    table = Table(box=box.MARKDOWN)
    for name in ("server", "load", "answered", "refused", "tok/s", "of offline"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for metric in ("first token", "between tokens"):
        table.add_column(f"{metric}, ms: p50 / p95 / p99", justify="right")
    for line in lines[1:]:
        times = [" / ".join(f"{line[m][str(p)]:.0f}" for p in PERCENTILES) for m in METRICS]
        load = line["load"] if line["load"] == "full" else f"{line['load']:.0%}"
        share = line["token_rate"] / lines[0]["token_rate"]
        counts = [str(line["completed"]), str(line["refused"])]
        table.add_row(
            line["engine"], load, *counts, f"{line['token_rate']:.0f}", f"{share:.2f}", *times
        )
    console.print(table)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path, help="a local Hugging Face folder")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    add("--peers", nargs="*", type=peer, default=[], metavar="ENGINE[:VARIANT][:OPTION=VALUE,...]")
    add("--ours", nargs="+", default=[""], metavar="VARIANT[:OPTION=VALUE,...]")
    add("--peers-home", type=Path, default=HOME, help="where the peers are installed")
    add("--input", type=int, default=128, help="tokens of a chat, its template not counted")
    add("--output", type=int, default=64, help="tokens of an answer")
    add("--requests", type=int, default=64, help="of each load")
    add("--overload", type=int, default=4, help="times as many where the share is above 1")
    add("--shares", type=float, nargs="*", default=[0.5, 0.8, 1.0, 5.0], help="of the capacity")
    add("--concurrency", type=int, default=64, help="in flight where the server is kept full")
    add("--threads", type=int, default=2)
    add("--out", type=Path, help="append the JSON lines to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    args = arguments(argv)
    common = {"run": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    lines: list[dict[str, Any]] = []
    failed = []

    def keep(engine: str, figures: dict[str, Any]) -> None:
        line = {**common, "benchmark": "online", "engine": engine, "shape": folder.name, **figures}
        lines.append(line)
        print(json.dumps(line), flush=True)
        if args.out:
            append(args.out, line)

    try:
        folder = with_template((args.checkpoint or ensure(args.shape)).resolve())
        loads = 1 + sum(args.overload if share > 1 else 1 for share in args.shares)
        texts = prompts(folder, loads * args.requests, args.input)
        base = Spec(OURS, folder, "bfloat16", "cpu", args.threads)
        offline = capacity(base, texts[: args.requests], args.output)
        keep("offline", {"load": "full", **offline})
        ours = [(OURS, *variant(text)) for text in args.ours]
        for name, label, settings in [*ours, *args.peers]:
            spec = Spec(name, folder, "bfloat16", "cpu", args.threads, label, settings)
            try:
                for figures in measured(spec, args, texts, offline["request_rate"]):
                    keep(spec.label, figures)
            except BenchmarkError as error:
                note(f"{spec.label}: {error}")
                failed.append(spec.label)
    except (GemmarayError, BenchmarkError) as error:
        sys.exit(f"online.py: {error}")
    show(lines, Console(stderr=True, width=TABLE_WIDTH))
    if failed:
        sys.exit(f"online.py: {', '.join(failed)} failed")


if __name__ == "__main__":
    main()
