"""An engine in a process of its own: its memory, its threads and its start-up are only its own."""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from model.errors import GemmarayError

from .contenders import Answers, BenchmarkError, Contender, Spec, load
from .measure import Timing, forget_peak_rss, peak_gpu, peak_rss, timed
from .workloads import Request

END_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is known of an engine once it is ready; load_s leaves out the imports."""

    version: str
    variant: str
    load_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over a workload.

    Attributes:
        answers: of each request.
        timing: of this pass.
        peak_rss: bytes, the larger one of loading and of this pass.
        peak_gpu: bytes of tensors on the GPU, since the start.
    """

    answers: Answers
    timing: Timing
    peak_rss: int
    peak_gpu: int


class Worker:
    """Drives an engine in a child process.

    Raises on construction, and in `run`:
        GemmarayError: what the child raised, or BenchmarkError if it died.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        # A fresh interpreter: a fork would share this one's memory and its threads' state.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()
        loaded = self._receive()
        assert isinstance(loaded, Loaded)
        self.loaded = loaded

    def run(self, requests: Sequence[Request]) -> Run:
        """Answer all requests; refuses answers of another length than was asked for."""
        self._pipe.send(requests)
        run = self._receive()
        assert isinstance(run, Run)
        for index, (answer, request) in enumerate(zip(run.answers, requests, strict=True)):
            if len(answer) != request.output_len:
                raise BenchmarkError(
                    f"{self.spec.name}: request {index} got {len(answer)} tokens, not "
                    f"{request.output_len}"
                )
        return run

    def close(self) -> None:
        """End the child."""
        self._pipe.close()
        self._process.join(END_TIMEOUT_S)
        self._process.kill()

    def _receive(self) -> object:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join(END_TIMEOUT_S)
            raise BenchmarkError(
                f"{self.spec.name} ended with exit status {self._process.exitcode}"
            ) from None
        if isinstance(answer, GemmarayError):
            raise answer
        return answer


def _serve(pipe: Connection, spec: Spec) -> None:
    try:
        start = time.perf_counter()
        contender = load(spec)
        pipe.send(Loaded(contender.version, contender.variant, time.perf_counter() - start))
        _answer(pipe, contender, peak_rss())
    except GemmarayError as error:
        pipe.send(error)


def _answer(pipe: Connection, contender: Contender, loading_rss: int) -> None:
    try:
        while True:
            requests = pipe.recv()
            forget_peak_rss()
            answers, timing = timed(lambda: contender.run(requests))  # noqa: B023 - called at once
            pipe.send(Run(answers, timing, max(loading_rss, peak_rss()), peak_gpu()))
    except EOFError:
        contender.close()
