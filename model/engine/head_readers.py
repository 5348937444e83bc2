"""What tasks of a label head, and of hidden states, want of a prompt and make of the values."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from model.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    HiddenStatesOutput,
    TaggingOutput,
)
from model.pooling import Scores, last_real_position
from model.tagging import entities_of, trimmed
from model.tasks import Classify, Embed, TagTokens

from .readers import PromptOnly
from .sequence import Chunk
from .step import StepPlan


class ClassifyReader(PromptOnly):
    """Reads the sequence classification head at the rightmost token that is not pad."""

    def __init__(
        self, prompt: Sequence[int], pad_id: int | None, task: Classify, scores: Scores
    ) -> None:
        self.prompt_tokens = len(prompt)
        self.task = task
        self._position = last_real_position(prompt, pad_id)
        self._scores = scores
        self._logits: list[float] = []

    @override
    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        if chunk.start <= self._position < chunk.end:
            plan.head(row + self._position - chunk.start, 1, self._take)

    @override
    def first_row(self) -> int:
        return self._position

    @override
    def result(self) -> ClassificationOutput:
        scores = self._scores.of(torch.tensor(self._logits), self.task.function_to_apply).tolist()
        labels = self._scores.labels
        return ClassificationOutput.of(self.prompt_tokens, labels, scores, self._logits)

    def _take(self, logits: Tensor) -> None:
        self._logits = logits[0].float().tolist()


class TagReader(PromptOnly):
    """Reads the token classification head at every position."""

    def __init__(self, prompt_tokens: int, task: TagTokens, scores: Scores) -> None:
        self.prompt_tokens = prompt_tokens
        self.task = task
        self._scores = scores
        self._logits: list[Tensor] = []

    @override
    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        plan.head(row, chunk.count, self._take)

    @override
    def first_row(self) -> int:
        return 0

    @override
    def result(self) -> TaggingOutput:
        task, labels = self.task, self._scores.labels
        probabilities = torch.cat(self._logits).softmax(-1)
        entities = entities_of(
            labels, probabilities, task.offsets, task.text, task.aggregation, task.ignore_labels
        )
        best, indices = probabilities.max(-1)
        return TaggingOutput(
            prompt_tokens=self.prompt_tokens,
            entities=trimmed(entities) if task.trims else entities,
            token_labels=tuple(labels[index] for index in indices.tolist()),
            token_scores=tuple(best.tolist()),
        )

    def _take(self, logits: Tensor) -> None:
        self._logits.append(logits.float())


class EmbedReader(PromptOnly):
    """Pools hidden states to one vector.

    Args:
        prompt_tokens: how many there are.
        task: which vector.
        layer: whose inputs they are; None for the final ones.
    """

    def __init__(self, prompt_tokens: int, task: Embed, layer: int | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.task = task
        self._layer = layer
        # The rows [first, stop) that are added up.
        self._first = prompt_tokens - 1 if task.pooling == "last" else 0
        self._stop = 1 if task.pooling == "cls" else prompt_tokens
        self._sum: Tensor | None = None

    @property
    @override
    def layers(self) -> int | None:
        return self._layer

    @override
    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        first, stop = max(self._first, chunk.start), min(self._stop, chunk.end)
        if first < stop:
            plan.hidden_sum(row + first - chunk.start, stop - first, self._take, self._layer)

    @override
    def first_row(self) -> int:
        return self._first

    @override
    def result(self) -> EmbeddingOutput:
        assert self._sum is not None
        vector = self._sum / (self._stop - self._first)
        if self.task.normalize:
            vector = torch.nn.functional.normalize(vector, dim=0)
        return EmbeddingOutput(self.prompt_tokens, tuple(vector.tolist()))

    def _take(self, total: Tensor) -> None:
        self._sum = total if self._sum is None else self._sum + total


class HiddenStatesReader(PromptOnly):
    """Reads the hidden state of every token; see EmbedReader."""

    def __init__(self, prompt_tokens: int, task: Embed, layer: int | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.task = task
        self._layer = layer
        self._rows: list[Tensor] = []

    @property
    @override
    def layers(self) -> int | None:
        return self._layer

    @override
    def want(self, plan: StepPlan, chunk: Chunk, row: int) -> None:
        plan.hidden(row, chunk.count, self._rows.append, self._layer)

    @override
    def first_row(self) -> int:
        return 0

    @override
    def result(self) -> HiddenStatesOutput:
        states = torch.cat(self._rows)
        if self.task.normalize:
            states = torch.nn.functional.normalize(states, dim=-1)
        return HiddenStatesOutput(self.prompt_tokens, states.numpy())
