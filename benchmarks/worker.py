"""An engine in a process of its own, measured from outside: the same way whatever it is."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .measure import Timing, timed
from .memory import MemoryWatch
from .peers.launch import REPOSITORY, Launch
from .spec import Answers, BenchmarkError, Request

LOGS = Path("out/benchmarks/logs")
END_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is known of an engine once it is ready.

    Attributes:
        load_s: seconds of loading, without imports.
        start_s: seconds from starting its process until it is ready.
    """

    version: str
    settings: str
    precision: str
    load_s: float
    start_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over a workload.

    Attributes:
        answers: of each request.
        timing: of this pass.
        peak_rss: resident bytes of the process and its children, from its start on.
        peak_gpu: bytes of tensors on the GPU, since the start.
    """

    answers: Answers
    timing: Timing
    peak_rss: int
    peak_gpu: int


class Worker:
    """Drives `benchmarks.serve` in a child process; a context manager.

    Raises on entry, and in `run`:
        BenchmarkError: what went wrong in the child, in one line; its log has the rest.
    """

    def __init__(self, launch: Launch) -> None:
        self.spec = launch.spec
        self._launch = launch
        self._log = LOGS / f"{self.spec.label.replace(' ', '-')}.log"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()  # it stays open if nothing was raised
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, requests: Sequence[Request]) -> Run:
        """Answer all requests; refuses answers of another length than was asked for."""
        reply, timing = timed(lambda: self._ask(requests), self._process.pid)
        answers: Answers = reply["answers"]
        for index, (answer, request) in enumerate(zip(answers, requests, strict=True)):
            if len(answer) != request.output_len:
                raise BenchmarkError(
                    f"{self.spec.label}: request {index} got {len(answer)} tokens, not "
                    f"{request.output_len}"
                )
        return Run(answers, timing, self._memory.peak, reply["peak_gpu"])

    def _start(self) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        log = self._stack.enter_context(self._log.open("wb"))
        ours, theirs = os.pipe()
        self._replies = self._stack.enter_context(os.fdopen(ours, encoding="utf-8"))
        start = time.perf_counter()
        self._process = subprocess.Popen(
            self._launch.command("--replies", str(theirs)),
            cwd=REPOSITORY,
            env=self._launch.environ(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[theirs],
            start_new_session=True,
            text=True,
        )
        os.close(theirs)
        self._stack.callback(self._end)
        self._memory = self._stack.enter_context(MemoryWatch(self._process.pid))
        loaded = self._receive()
        self.loaded = Loaded(**loaded, start_s=time.perf_counter() - start)

    def _ask(self, requests: Sequence[Request]) -> dict[str, Any]:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # _receive says what became of the process
            self._process.stdin.write(json.dumps(requests) + "\n")
            self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            self._end()
            status = self._process.returncode
            raise BenchmarkError(
                f"{self.spec.label} ended with exit status {status}: see {self._log}"
            )
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BenchmarkError(f"{self.spec.label}: {reply['error']} (log: {self._log})")
        return reply

    def _end(self) -> None:
        """End the child and whatever it has left running."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
