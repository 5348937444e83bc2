"""llama.cpp, by its own server over loopback HTTP. Standard library only."""

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.spec import Answers, BenchmarkError, Contender, Request, Spec

POLL_S = 0.05
REQUEST_TIMEOUT_S = 3600.0
END_TIMEOUT_S = 10.0


class LlamaCpp(Contender):
    """Continuous batching in `parallel` slots of `context` tokens, micro-batches of `ubatch`.

    `launch` adds two settings: `server`, the program, and `gguf`, the model file. The prompt cache
    is off: it would answer a repeated run from the run before, and slots do not share a prefix
    that none of them has finished yet.
    """

    def __init__(self, spec: Spec) -> None:
        slots, ubatch = spec.setting("parallel", 32), spec.setting("ubatch", 512)
        weights = spec.setting("weights", "bf16")
        self.version = spec.setting("version", "")
        self.settings = f"{weights} np{slots} ub{ubatch}"
        self.precision = spec.dtype if weights == "bf16" else "int8"
        self._port = _free_port()
        options = {
            "-m": spec.settings["gguf"],
            "--host": "127.0.0.1",
            "--port": self._port,
            "-t": spec.threads,
            "-tb": spec.threads,
            "-ngl": 0,
            "-np": slots,
            "-c": slots * spec.setting("context", 1280),
            "-b": 2048,
            "-ub": ubatch,
        }
        words = [str(word) for option in options.items() for word in option]
        self._server = subprocess.Popen([spec.settings["server"], *words, "-cb", "--log-disable"])
        self._wait_until_ready()

    def run(self, requests: Sequence[Request]) -> Answers:
        """Post all requests at once."""
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(self._complete, requests))

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        try:
            self._server.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()

    def _wait_until_ready(self) -> None:
        while self._server.poll() is None:
            with contextlib.suppress(OSError):
                if self._call("GET", "/health")[0] == http.client.OK:
                    return
            time.sleep(POLL_S)
        raise BenchmarkError(f"{Path(str(self._server.args[0])).name} ended while it loaded")

    def _complete(self, request: Request) -> list[int]:
        wanted = {
            "prompt": request.prompt,
            "n_predict": request.output_len,
            "ignore_eos": True,
            "temperature": 0.0,
            "top_k": 1,
            "samplers": ["top_k"],
            "cache_prompt": False,
            "return_tokens": True,
        }
        status, answer = self._call("POST", "/completion", wanted)
        if status != http.client.OK:
            raise BenchmarkError(f"llama-server answered {status}: {answer}")
        tokens: list[int] = answer["tokens"]
        return tokens

    def _call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=REQUEST_TIMEOUT_S)
        with contextlib.closing(connection):
            text = json.dumps(body) if body else None
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
