"""A load on an HTTP server, from vLLM's load generator in a process of its own."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.spec import BenchmarkError

# What `vllm bench serve` does. The command itself looks for a package that CPU builds do not have.
GENERATOR = (
    "import argparse; from vllm.benchmarks import serve; parser = argparse.ArgumentParser(); "
    "serve.add_cli_args(parser); serve.main(parser.parse_args())"
)
PERCENTILES = (50, 95, 99)
METRICS = ("ttft_ms", "itl_ms")  # the times to the first token, and between tokens


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server.

    Attributes:
        texts: chats of one message each.
        output_len: tokens of each answer.
        rate: requests per second, at random moments (a Poisson process); None is all at once.
        concurrency: requests in flight at most; None is any number.
    """

    texts: Sequence[str]
    output_len: int
    rate: float | None = None
    concurrency: int | None = None


def drive(vllm: Path, url: str, model: str, tokenizer: Path, load: Load) -> dict[str, Any]:
    """Put a load on a server and give what its clients saw.

    Args:
        vllm: the interpreter that has it.
        url: of the server, without /v1.
        model: its name in requests.
        tokenizer: folder that counts tokens where a server does not.
        load: what is asked.

    Returns:
        completed, refused: requests; duration_s; request_rate and token_rate (output tokens) per
        second; METRICS, in milliseconds, by percentile.

    Raises:
        BenchmarkError: the generator failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "prompts.jsonl")
        asked.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in load.texts))
        command = [str(vllm), "-c", GENERATOR, "--backend", "openai-chat", "--base-url", url]
        command += ["--endpoint", "/v1/chat/completions", "--model", model]
        command += ["--tokenizer", str(tokenizer), "--temperature", "0", "--disable-tqdm"]
        command += ["--dataset-name", "custom", "--dataset-path", str(asked)]
        command += ["--custom-output-len", str(load.output_len), "--skip-chat-template"]
        command += ["--num-prompts", str(len(load.texts)), "--disable-shuffle"]
        command += ["--request-rate", "inf" if load.rate is None else f"{load.rate:.4f}"]
        if load.concurrency is not None:
            command += ["--max-concurrency", str(load.concurrency)]
        command += ["--percentile-metrics", "ttft,itl", "--metric-percentiles"]
        command += [",".join(map(str, PERCENTILES)), "--save-result"]
        command += ["--result-dir", folder, "--result-filename", "result.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise BenchmarkError(f"the load generator failed: {lines[-1] if lines else '?'}")
        return _figures(json.loads(Path(folder, "result.json").read_text()), len(load.texts))


def _figures(result: dict[str, Any], asked: int) -> dict[str, Any]:
    return {
        "completed": result["completed"],
        "refused": asked - result["completed"],
        "duration_s": result["duration"],
        "request_rate": result["request_throughput"],
        "token_rate": result["output_throughput"],
        **{metric: {str(p): result[f"p{p}_{metric}"] for p in PERCENTILES} for metric in METRICS},
    }
