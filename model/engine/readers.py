"""What each task wants of a prompt, and what it makes of the values: one reader per task."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from typing_extensions import override

from model.outputs import (
    ClassificationOutput,
    GenerationOutput,
    LogprobsOutput,
    TaskOutput,
)
from model.params import SamplingParams
from model.sampling import SamplingRow
from model.tasks import ScoreLabels

from .completion import CompletionReader
from .sequence import Chunk, Continuation, deepest
from .step import StepPlan


class TaskReader(Protocol):
    """Reads a prompt for one task, and names what has to be computed after it."""

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        """Ask for rows of a chunk of the prompt."""

    def first_row(self) -> int:
        """Return the first position of the prompt whose values it needs.

        Those before it need not be computed if their keys are known.
        """

    @property
    def layers(self) -> int | None:
        """How many layers it needs computed; None is all."""
        return None

    def branches(self) -> list[Continuation]:
        """Name the continuations of the prompt, once it is computed."""

    def branch_lengths(self) -> list[int]:
        """Return the most tokens that each continuation stores, before anything is computed."""

    def result(self) -> TaskOutput:
        """Return the output, once everything is computed."""


class PromptReader:
    """Reads a prompt for all tasks of a request."""

    def __init__(self, tasks: Sequence[TaskReader]) -> None:
        self.tasks = tasks
        self.layers = deepest(task.layers for task in tasks)

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        """Let every task ask."""
        for task in self.tasks:
            task.want(plan, chunk, row)

    def continuations(self) -> list[Continuation]:
        """Go on with whatever any task needs after the prompt."""
        return [branch for task in self.tasks for branch in task.branches()]

    def carry(self) -> CompletionReader | None:
        """Go on with the only answer, if nothing else follows the prompt."""
        branches = sum(len(task.branch_lengths()) for task in self.tasks)
        answers = [
            completion
            for task in self.tasks
            if isinstance(task, GenerateReader)
            for completion in task.completions
        ]
        return answers[0].carry() if branches == len(answers) == 1 else None


class PromptOnly(TaskReader):
    """A task that needs nothing after the prompt."""

    @override
    def branches(self) -> list[Continuation]:
        return []

    @override
    def branch_lengths(self) -> list[int]:
        return []


class GenerateReader(TaskReader):
    """Draws the first token of each completion; they go on by themselves."""

    def __init__(self, prompt_tokens: int, completions: Sequence[CompletionReader]) -> None:
        self.prompt_tokens = prompt_tokens
        self.completions = completions

    @override
    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        for completion in self.completions:
            completion.want(plan, chunk, row)

    @override
    def first_row(self) -> int:
        return self.prompt_tokens - 1

    @override
    def branches(self) -> list[Continuation]:
        return [go_on for completion in self.completions for go_on in completion.continuations()]

    @override
    def branch_lengths(self) -> list[int]:
        # The token drawn last is never computed.
        return [completion.limit - 1 for completion in self.completions if completion.limit > 1]

    @override
    def result(self) -> GenerationOutput:
        return GenerationOutput(self.prompt_tokens, tuple(c.result() for c in self.completions))


class _LabelReader:
    """Computes a label of several tokens after the prompt: the likelihood of all but the first."""

    def __init__(self, label: Sequence[int], logprobs: list[float]) -> None:
        self._label = label
        self._logprobs = logprobs
        self._seen = 0

    @property
    def layers(self) -> None:
        """It needs all of them."""

    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        """Ask how likely each next token of the label is."""
        for offset in range(chunk.count):
            self._seen += 1
            plan.logprobs(row + offset, (self._label[self._seen],), self._logprobs.extend)

    def continuations(self) -> list[Continuation]:
        """Nothing follows a label."""
        return []

    def carry(self) -> None:
        """Nothing follows a label."""


class ScoreLabelsReader(TaskReader):
    """Computes log p(label | prompt) for every label, sharing the prompt."""

    def __init__(self, prompt_tokens: int, task: ScoreLabels) -> None:
        self.prompt_tokens = prompt_tokens
        self.task = task
        self._logprobs: list[list[float]] = [[] for _ in task.labels]

    @override
    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        if chunk.last:
            first = [label[0] for label in self.task.label_ids]
            plan.logprobs(row + chunk.count - 1, first, self._take_first)

    @override
    def first_row(self) -> int:
        return self.prompt_tokens - 1

    @override
    def branches(self) -> list[Continuation]:
        return [
            (_LabelReader(label, logprobs), list(label[:-1]))
            for label, logprobs in zip(self.task.label_ids, self._logprobs, strict=True)
            if len(label) > 1
        ]

    @override
    def branch_lengths(self) -> list[int]:
        return [len(label) - 1 for label in self.task.label_ids if len(label) > 1]

    @override
    def result(self) -> ClassificationOutput:
        lengths = [
            len(label) if self.task.normalize == "mean" else 1 for label in self.task.label_ids
        ]
        totals = [math.fsum(values) / n for values, n in zip(self._logprobs, lengths, strict=True)]
        probabilities = torch.tensor(totals, dtype=torch.float64).softmax(0).tolist()
        return ClassificationOutput.of(self.prompt_tokens, self.task.labels, probabilities, totals)

    def _take_first(self, values: list[float]) -> None:
        for logprobs, value in zip(self._logprobs, values, strict=True):
            logprobs.append(value)


class LogprobsReader(PromptOnly):
    """Reports the log-probability of each prompt token given those before it.

    Args:
        prompt: the tokens.
        top: how many of the likeliest tokens to report at each place.

    Raises on construction: ParameterError: `top` is out of its range.
    """

    def __init__(self, prompt: Sequence[int], top: int) -> None:
        self.prompt = prompt
        self._logprobs: list[float] = []
        self._tops: list[tuple[tuple[int, float], ...]] = []
        self._ranking = SamplingRow(SamplingParams(logprobs=top)) if top else None

    @override
    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        for offset in range(chunk.count):
            following = chunk.start + offset + 1
            if following < len(self.prompt):
                plan.logprobs(row + offset, (self.prompt[following],), self._logprobs.extend)
                if self._ranking is not None:
                    plan.likeliest(row + offset, self._ranking, self._tops.append)

    @override
    def first_row(self) -> int:
        return 0

    @override
    def result(self) -> LogprobsOutput:
        tops = ((), *self._tops) if self._ranking is not None else None
        return LogprobsOutput(len(self.prompt), tuple(self.prompt), (None, *self._logprobs), tops)
