"""What is asked of each window of a prompt, and one result from those of all windows."""

from collections.abc import Sequence
from dataclasses import replace
from math import fsum, hypot

import numpy as np

from model.errors import TaskError
from model.long_texts import WindowedPrompt
from model.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    HiddenStatesOutput,
    TaggingOutput,
    TaskOutput,
)
from model.tagging import merged, trimmed
from model.tasks import Classify, Embed, TagTokens, Task


def window_tasks(tasks: Sequence[Task], places: Sequence[int]) -> list[Task]:
    """Give the tasks of the window that holds these places of the prompt.

    Raises:
        TaskError: a task answers a prompt as a whole.
    """
    return [_window_task(task, places) for task in tasks]


def joined(prompt: WindowedPrompt, task: Task, results: Sequence[TaskOutput]) -> TaskOutput:
    """Make one result of those of all windows; how is said in WindowedEngine."""
    fresh, tokens = list(prompt.fresh()), len(prompt.ids)
    if isinstance(task, TagTokens):
        tags = [result for result in results if isinstance(result, TaggingOutput)]
        return _tagging(prompt, task, tags, fresh)
    if isinstance(task, Embed) and task.pooling == "none":
        states = [result for result in results if isinstance(result, HiddenStatesOutput)]
        parts = [one.hidden_states[rows] for one, rows in zip(states, fresh, strict=True)]
        return HiddenStatesOutput(tokens, np.concatenate(parts))
    weights = [len(rows) / tokens for rows in fresh]
    if isinstance(task, Embed):
        vectors = [result.embedding for result in results if isinstance(result, EmbeddingOutput)]
        return EmbeddingOutput(tokens, _mean(vectors, weights, unit=task.normalize))
    classes = [result for result in results if isinstance(result, ClassificationOutput)]
    return ClassificationOutput.of(
        tokens,
        [item.label for item in classes[0].scores],
        _mean([[item.score for item in one.scores] for one in classes], weights),
        _mean([one.logits for one in classes], weights),
    )


def _window_task(task: Task, places: Sequence[int]) -> Task:
    if isinstance(task, TagTokens):
        offsets = tuple(task.offsets[place] for place in places)
        return replace(task, offsets=offsets, trim=False)
    if isinstance(task, Classify | Embed):
        return task
    raise TaskError(
        f"{type(task).__name__} answers a prompt as a whole: it can't be computed in windows"
    )


def _tagging(
    prompt: WindowedPrompt,
    task: TagTokens,
    tags: Sequence[TaggingOutput],
    fresh: Sequence[range],
) -> TaggingOutput:
    windows = list(zip(tags, fresh, prompt.places(), strict=True))
    if task.aggregation == "none":
        entities = [
            replace(entity, index=places[entity.index])
            for tagging, rows, places in windows
            for entity in tagging.entities
            if entity.index is not None and entity.index in rows
        ]
    else:
        found = merged([entity for tagging in tags for entity in tagging.entities])
        entities = list(trimmed(found) if task.trims else found)
    return TaggingOutput(
        prompt_tokens=len(prompt.ids),
        entities=tuple(entities),
        token_labels=tuple(t.token_labels[row] for t, rows, _ in windows for row in rows),
        token_scores=tuple(t.token_scores[row] for t, rows, _ in windows for row in rows),
    )


def _mean(
    vectors: Sequence[Sequence[float]], weights: Sequence[float], *, unit: bool = False
) -> tuple[float, ...]:
    columns = zip(*vectors, strict=True)
    mean = [fsum(w * x for w, x in zip(weights, column, strict=True)) for column in columns]
    length = hypot(*mean) if unit else 1.0
    return tuple(x / length for x in mean) if length else tuple(mean)
