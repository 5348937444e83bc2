"""Send requests made from the OpenAPI document, right ones and wrong ones: no answer may be a 5xx.

    python -m tests.cluster.serve.fuzz --examples 600

starts the demo models behind the API on loopback and lets schemathesis loose on them, in both
modes. Each answer must also be one that the document tells of, and wrong requests must be refused.
The last line says how many requests were answered with what.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx

from actors.endpoint import Endpoint
from cluster.serve.api import make_app
from cluster.serve.backend import LocalBackend
from cluster.serve.batches.shelf import Shelf
from cluster.serve.settings import Limits
from pipelines.storage import open_store

from .batching import batches_on
from .conftest import FOLDERS, Served, config, listening

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method"
)
# Requests name a model that is there, and are short. Right ones are made to agree with what the
# document can't say: turns take turns, and of two fields that exclude each other one is there.
HOOKS = """
import os

import schemathesis

MODELS = {"/v1/classify": "classifier", "/v1/tag_tokens": "tagger"}
MOST = {"max_tokens": 3, "max_completion_tokens": 3, "min_tokens": 3, "n": 3}
LABELS = {"labels": ["a", "b", "c"]}


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict):
        case.body = short(context, dict(case.body))


@schemathesis.hook
def filter_body(context, body):
    # In a form, whatever is no text is sent as text, and text is a file.
    return not isinstance(body, dict) or isinstance(body.get("file", ""), (str, bytes))


def short(context, body):
    if isinstance(body.get("model"), str) and 0 < len(body["model"]) <= 256:
        body["model"] = MODELS.get(context.operation.path, "demo")
    if "chat" in context.operation.path and body.get("max_tokens") is None:
        body["max_tokens"] = 3
    for name, most in MOST.items():
        if type(body.get(name)) is int and most < body[name] < 100_000:
            body[name] = most
    return agreeing(body) if os.environ["FUZZ_MODE"] == "positive" else body


def agreeing(body):
    for name, other in (("input", "messages"), ("prompt", "messages")):
        if body.get(name) is not None:
            body.pop(other, None)
    if body.get("max_tokens") == 0:
        body["echo"] = True
    body.pop("timeout", None)
    if body.get("messages"):
        body["messages"] = [
            {**message, "role": ("user", "assistant")[n % 2]}
            for n, message in enumerate(body["messages"])
        ]
        body.pop("add_special_tokens", None)
        body.pop("continue_final_message", None)
    else:
        body.pop("continue_final_message", None)
    if not body.get("stream"):
        body.pop("stream_options", None)
    elif body.get("echo"):
        body.pop("logprobs", None)
        body["max_tokens"] = 2
    if "top_logprobs" in body:
        body["logprobs"] = True
    if body.get("max_completion_tokens") is not None:
        body.pop("max_tokens", None)
    for name in ("logit_bias", "stop_token_ids", "min_tokens"):
        body.pop(name, None) if len(str(body.get(name))) % 3 else None
    return {**body, **LABELS} if "labels" in body else body
"""
# Lists that are too long are to be refused for that.
LARGE = Limits(max_body_bytes=256 << 20, timeout_s=5, max_open_batches=1_000_000)
COUNT = re.compile(r'gemmaray_http_requests_total\{route="(.*?)",status="(\d+)"\} (\S+)')


def main() -> int:
    """Run, and give the number of modes in which something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=600, help="of each operation and mode")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with ExitStack() as stack:
        backends = {}
        for name in FOLDERS:
            endpoint = Endpoint(config(name))
            stack.callback(endpoint.close)
            backends[name] = LocalBackend(endpoint, 64)
        shelf = Shelf(open_store(stack.enter_context(tempfile.TemporaryDirectory())))
        batches = batches_on(shelf, LARGE)  # they are taken, and wait for a worker
        app = make_app(backends, None, LARGE, batches=batches)
        served = stack.enter_context(listening(app))
        hooks = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "fuzz_hooks.py"
        hooks.write_text(HOOKS)
        found = sum(
            _run(served, hooks, mode, options.examples, options.seed) != 0
            for mode in ("positive", "negative")
        )
        counts = _counts(served)
        errors = sum(count for status, count in counts.items() if status.startswith("5"))
        told = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
        print(f"{sum(counts.values())} requests ({told}), {errors} server errors")
        return found + (errors > 0)


def _run(served: Served, hooks: Path, mode: str, examples: int, seed: int) -> int:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{served.url}/openapi.json",
        f"--mode={mode}",
        f"--max-examples={examples}",
        f"--seed={seed}",
        f"--checks={CHECKS}",
        "--phases=examples,coverage,fuzzing",
        "--suppress-health-check=all",
        "--continue-on-failure",
        "--generation-database=none",
        "--no-color",
    ]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": hooks.stem,
        "FUZZ_MODE": mode,
        "PYTHONPATH": os.pathsep.join([str(hooks.parent), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(command, check=False, env=environment).returncode


def _counts(served: Served) -> Counter[str]:
    text = httpx.get(f"{served.url}/metrics").text
    counts = Counter[str]()
    for _, status, count in COUNT.findall(text):
        counts[status] += int(float(count))
    return counts


if __name__ == "__main__":
    sys.exit(main())
