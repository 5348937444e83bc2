"""One engine in this process, driven from outside. Runs in the interpreter of any engine.

    python -m benchmarks.serve SPEC --replies FD                    lines of requests on stdin
    python -m benchmarks.serve SPEC --requests FILE --answers FILE  one job, then it ends

SPEC is `Spec.plain` as JSON. Imports nothing but the standard library and the engine that is asked
for, so that its memory and start-up are only its own. A reply is a line of JSON: first what was
loaded, then the answers to each line of requests, or {"error": ...}.
"""

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.spec import OURS, Contender, Request, Spec

CONTENDERS = {
    OURS: ("benchmarks.contenders", "Gemmaray"),
    "transformers": ("benchmarks.peers.static_batches", "Transformers"),
    "vllm": ("benchmarks.peers.vllm_offline", "Vllm"),
    "llama.cpp": ("benchmarks.peers.llama_server", "LlamaCpp"),
}


def load(spec: Spec) -> tuple[Contender, dict[str, Any]]:
    """Load an engine, and say what it is; `load_s` leaves out the imports."""
    module, name = CONTENDERS[spec.name]
    kind: type[Contender] = getattr(importlib.import_module(module), name)
    start = time.perf_counter()
    contender = kind(spec)
    return contender, {
        "version": contender.version,
        "settings": contender.settings,
        "precision": contender.precision,
        "load_s": time.perf_counter() - start,
    }


def serve(spec: Spec, reply: Callable[[dict[str, Any]], None]) -> None:
    """Answer lines of requests until there are no more."""
    contender, loaded = load(spec)
    reply(loaded)
    for line in sys.stdin:
        requests = [Request(*request) for request in json.loads(line)]
        reply({"answers": contender.run(requests), "peak_gpu": _peak_gpu()})
    contender.close()


def work(spec: Spec, requests_file: Path, answers_file: Path) -> None:
    """Do one job: a line of answers for each line of requests, and the times at the end.

    The last line holds seconds since the epoch: `ready`, the engine; `done`, the last answer
    written.
    """
    contender, loaded = load(spec)
    ready = time.time()
    lines = requests_file.read_text(encoding="utf-8").splitlines()
    with answers_file.open("w", encoding="utf-8") as out:
        for answer in contender.run([Request(*json.loads(line)) for line in lines]):
            out.write(json.dumps(answer) + "\n")
        out.flush()
        out.write(json.dumps(loaded | {"ready": ready, "done": time.time()}) + "\n")
    contender.close()


def _peak_gpu() -> int:
    """Return the most bytes that tensors have held on the GPU; 0 without one."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else 0


def main() -> None:
    """Serve, or do one job."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("spec", help="JSON")
    parser.add_argument("--replies", type=int, metavar="FD", help="where replies go")
    parser.add_argument("--requests", type=Path)
    parser.add_argument("--answers", type=Path)
    args = parser.parse_args()
    spec = Spec.from_plain(json.loads(args.spec))
    if args.replies is None:
        work(spec, args.requests, args.answers)
        return
    with os.fdopen(args.replies, "w", encoding="utf-8") as replies:

        def reply(message: dict[str, Any]) -> None:
            replies.write(json.dumps(message) + "\n")
            replies.flush()

        try:
            serve(spec, reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side has to know
            traceback.print_exc()
            reply({"error": str(error).partition("\n")[0] or type(error).__name__})


if __name__ == "__main__":
    main()
