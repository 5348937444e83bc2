"""Where the ranks of an engine live: all in this process, or one here and the rest as children.

Rank 0 computes in the process of the engine and samples; the others are child processes that are
sent each step through a pipe, compute their slices and meet rank 0 in the collectives. A child
ends with its parent (its pipe closes), and the engine with its children.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from model.batch import PackedBatch
from model.errors import EngineDeadError, GemmarayError
from model.parallel import TensorParallel

from .runner import RankSetup, Runner

JOIN_TIMEOUT_S = 120.0
END_TIMEOUT_S = 5.0
# How long a rank that failed may take to say why.
WORD_TIMEOUT_S = 0.5


class Executor(Protocol):
    """Computes steps on all ranks."""

    runner: Runner

    def allocate(self, num_pages: int) -> None:
        """Set the KV pages aside on every rank."""

    def run(self, batch: PackedBatch) -> tuple[Tensor, Tensor | None]:
        """Compute a step, as `Runner.run`."""

    def close(self) -> None:
        """End the other ranks, if there are any."""


class InProcess:
    """One rank, in this process."""

    def __init__(self, setup: RankSetup) -> None:
        self.runner = Runner(setup, TensorParallel.single())

    def allocate(self, num_pages: int) -> None:
        """Set the KV pages aside."""
        self.runner.allocate(num_pages)

    def run(self, batch: PackedBatch) -> tuple[Tensor, Tensor | None]:
        """Compute a step."""
        return self.runner.run(batch)

    def close(self) -> None:
        """Nothing to end."""


class RankGroup:
    """Rank 0 in this process and the others as its children.

    Raises on construction: what a rank raised, or EngineDeadError if one died without a word.
    """

    def __init__(self, setup: RankSetup, size: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gemmaray-ranks-")
        meeting = f"file://{self._folder.name}/meeting"
        self._children = [_Child(setup, rank, size, meeting) for rank in range(1, size)]
        try:
            self._tp = TensorParallel.join(
                0,
                size,
                init_method=meeting,
                device=setup.device(0),
                timeout_s=JOIN_TIMEOUT_S,
            )
            self.runner = Runner(setup, self._tp)
            for child in self._children:
                child.wait_ready()
        except BaseException as error:
            cause = self._first_failure()
            self.close()
            if cause is not None and not isinstance(error, KeyboardInterrupt):
                raise cause from error
            raise

    def allocate(self, num_pages: int) -> None:
        """Set the KV pages aside on every rank."""
        for child in self._children:
            child.send("allocate", num_pages)
        self.runner.allocate(num_pages)

    def run(self, batch: PackedBatch) -> tuple[Tensor, Tensor | None]:
        """Compute a step on every rank.

        Raises:
            EngineDeadError: a rank failed; the group is ended.
        """
        try:
            for child in self._children:
                child.send("run", batch)
            return self.runner.run(batch)
        except (OSError, RuntimeError) as error:
            cause = self._first_failure()
            self.close()
            raise EngineDeadError(f"a step failed: {cause or error}") from error

    def close(self) -> None:
        """End the children, and wait until they are gone."""
        for child in self._children:
            child.end()
        self._children = []
        if hasattr(self, "_tp"):
            self._tp.leave()
        self._folder.cleanup()

    def _first_failure(self) -> GemmarayError | None:
        return next(filter(None, (child.failure() for child in self._children)), None)


class _Child:
    """A rank in a process of its own.

    A plain subprocess rather than multiprocessing's spawn: that would import the user's main
    module once more.
    """

    def __init__(self, setup: RankSetup, rank: int, size: int, meeting: str) -> None:
        self.rank = rank
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "model.engine.rank_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_import_root(), *sys.path])},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe.send((setup, rank, size, meeting))

    def send(self, command: str, argument: Any) -> None:
        """Send a command; it is answered by taking part in the collectives."""
        self._pipe.send_bytes(pickle.dumps((command, argument), pickle.HIGHEST_PROTOCOL))

    def wait_ready(self) -> None:
        """Wait until it holds its slice of the model; raises what it raised."""
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise EngineDeadError(self._epitaph()) from None
        if isinstance(answer, Exception):
            raise answer

    def failure(self) -> GemmarayError | None:
        """Return what it died of, if it is dead or dying."""
        try:
            while self._pipe.poll(WORD_TIMEOUT_S):
                answer = self._pipe.recv()
                if isinstance(answer, GemmarayError):
                    return answer
        except (EOFError, OSError):
            return EngineDeadError(self._epitaph())
        return None

    def end(self) -> None:
        """Close its pipe, which ends it; kill it if that doesn't."""
        self._pipe.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _epitaph(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        return f"rank {self.rank} died (exit status {self._process.returncode})"


def _import_root() -> str:
    return str(Path(__file__).resolve().parents[2])
