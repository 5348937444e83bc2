"""Where the ranks of an engine live: all in this process, or one here and the rest as children.

Rank 0 computes in the process of the engine and its readers; the others are child processes that
are sent each step through a pipe, compute their slices, and take part in the collectives and in the
draws. A child ends with its parent, and the engine with its children; see `watchdog`.
"""

import pickle
import tempfile
import weakref
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from model.batch import PackedBatch
from model.errors import EngineDeadError
from model.parallel import TensorParallel, check_size

from .child import Child
from .queries import LogitAnswers, LogitQueries
from .runner import RankSetup, Runner
from .states import States
from .watchdog import OnStuck, Watchdog
from .words import JOINED, LOADED


class Executor(Protocol):
    """Computes steps on all ranks."""

    runner: Runner

    def allocate(self, num_pages: int) -> None:
        """Set the KV pages aside on every rank."""

    def launch(
        self, batch: PackedBatch, queries: LogitQueries | None
    ) -> tuple[States, LogitAnswers | None]:
        """Compute a step: its hidden states, as `Runner.run`, and the answers to the queries.

        On a GPU it may be under way only: the answers are waited for.
        """

    def close(self) -> None:
        """End the other ranks, if there are any."""


class InProcess:
    """One rank, in this process."""

    def __init__(self, setup: RankSetup) -> None:
        self.runner = Runner(setup, TensorParallel.single())
        self._drawn: Tensor | None = None

    def allocate(self, num_pages: int) -> None:
        """Set the pages aside."""
        self.runner.allocate(num_pages)

    def launch(
        self, batch: PackedBatch, queries: LogitQueries | None
    ) -> tuple[States, LogitAnswers | None]:
        """Compute a step; what it carries was drawn in the launch before."""
        states, answers = compute(self.runner, batch, queries, self._drawn)
        self._drawn = answers.drawn if answers is not None else None
        return states, answers

    def close(self) -> None:
        """Nothing to end."""


class RankGroup:
    """Rank 0 in this process and the others as its children.

    Every step is waited for: the ranks exchange what they draw by way of the host, and the watchdog
    measures how long a step takes from its launch to its end. So nothing is carried here.

    The ranks load their slices first and meet only then: what goes wrong before is heard of at
    once, where a meeting would wait in vain for whoever is missing.

    Args:
        setup: of every rank.
        size: how many there are.
        on_stuck: see `watchdog`.

    Raises on construction: ParameterError if the model can't be cut so; what a rank raised, or
    EngineDeadError if one died without a word.
    """

    def __init__(self, setup: RankSetup, size: int, on_stuck: OnStuck | None = None) -> None:
        check_size(setup.config, size)
        self._folder = tempfile.TemporaryDirectory(prefix="gemmaray-ranks-")
        self._tp = tp = TensorParallel(0, size)
        self._dead: EngineDeadError | None = None
        meeting = Path(self._folder.name) / "meeting"
        self._watchdog = Watchdog(
            lambda: [Child(setup, rank, size, meeting) for rank in range(1, size)],
            tp.abort,
            on_stuck,
        )
        # The ranks also end when nobody holds the group any more, and when the interpreter exits.
        self._end = weakref.finalize(self, self._watchdog.end)
        try:
            self.runner = Runner(setup, tp, self._watchdog.check)
            self._watchdog.wait_for(LOADED)
            self._send("join", None)
            with self._watchdog.working(0):
                tp.join(meeting, setup.device(0))
            self._watchdog.wait_for(JOINED)
        except BaseException:
            self.close()
            raise

    def allocate(self, num_pages: int) -> None:
        """Set the KV pages aside on every rank."""
        self._send("allocate", num_pages)
        self.runner.allocate(num_pages)

    def launch(
        self, batch: PackedBatch, queries: LogitQueries | None
    ) -> tuple[States, LogitAnswers | None]:
        """Compute a step on every rank, and wait for it.

        Raises:
            EngineDeadError: a rank failed; the group is ended.
        """
        if self._dead is not None:
            raise self._dead
        try:
            with self._watchdog.working(len(batch.token_ids)):
                self._send("run", (batch, queries.portable() if queries else None))
                states, answers = compute(self.runner, batch, queries)
                if answers is not None:
                    answers.wait()
                return states, answers
        except BaseException as error:
            # Whatever it was, an interrupt too: the ranks are out of step now.
            self._dead = EngineDeadError(f"a step failed: {str(error) or type(error).__name__}")
            self.close()
            if isinstance(error, Exception):
                raise self._dead from error
            raise

    def close(self) -> None:
        """End the children, and wait until they are gone."""
        self._dead = self._dead or EngineDeadError("the engine was closed")
        self._end()
        self._tp.leave()
        self._folder.cleanup()

    def _send(self, command: str, argument: Any) -> None:
        message = pickle.dumps((command, argument), pickle.HIGHEST_PROTOCOL)
        for child in self._watchdog.children:
            child.send(message)


def compute(
    runner: Runner,
    batch: PackedBatch,
    queries: LogitQueries | None,
    drawn: Tensor | None = None,
) -> tuple[States, LogitAnswers | None]:
    """Compute one rank's share of a step, and answer what is asked of its logits.

    Args:
        runner: of the rank.
        batch: the step.
        queries: at the batch's logit rows.
        drawn: the tokens that the batch carries over, as for `Runner.run`.
    """
    states, logits = runner.run(batch, drawn)
    if queries is None:
        return states, None
    assert logits is not None, "queries stand at the batch's logit rows"
    return states, queries.answer(logits, runner.vocabulary)
