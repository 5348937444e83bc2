"""What a job computes for each row: engine tasks in, typed result columns out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from model.constrain import check_constraint
from model.errors import ParameterError
from model.labels import LabelTokens
from model.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    GenerationOutput,
    TaggingOutput,
    TaskOutput,
)
from model.params import SamplingParams
from model.tasks import Classify, Embed, Generate, TagTokens, Task

from .checkpoint_info import CheckpointInfo
from .job import EmbedSettings, JobSpec, Tasks
from .labels import label_tokens

LABEL_SCORES = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))
ENTITIES = pa.list_(
    pa.struct(
        [
            ("label", pa.string()),
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("text", pa.string()),
            ("score", pa.float64()),
        ]
    )
)
_TOP = pa.list_(pa.struct([("token_id", pa.int32()), ("logprob", pa.float64())]))
LOGPROBS = pa.list_(pa.struct([("token_id", pa.int32()), ("logprob", pa.float64()), ("top", _TOP)]))


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, ready for the engine.

    Attributes:
        prompt_ids: its tokens.
        spaced: whether a label that follows it starts with a space.
        seed: of its sampling.
        text: what it was encoded from, where a task needs that.
        offsets: characters [start, end) of each token in the text.
        settings: of its sampling, where they are not the job's.
    """

    prompt_ids: list[int]
    spaced: bool
    seed: int
    text: str = ""
    offsets: tuple[tuple[int, int], ...] = ()
    settings: SamplingParams | None = None


class ResultColumns(Protocol):
    """The columns of one task."""

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types."""
        ...

    @property
    def reserve(self) -> int:
        """Tokens that must fit behind the prompt."""
        ...

    def task(self, row: Row) -> Task:
        """Give what the engine is asked."""
        ...

    def cells(self, result: Any) -> dict[str, Any]:
        """Give the values of the columns."""
        ...


@dataclass(frozen=True, slots=True)
class GenerateColumns:
    """generated_text and what goes with it."""

    params: SamplingParams

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types; `logprobs` only where they were asked for."""
        fields = [
            pa.field("generated_text", pa.string()),
            pa.field("finish_reason", pa.string()),
            pa.field("completion_tokens", pa.int32()),
            pa.field("cumulative_logprob", pa.float64()),
        ]
        return fields if self.params.logprobs is None else [*fields, pa.field("logprobs", LOGPROBS)]

    @property
    def reserve(self) -> int:
        """The whole answer must fit, so that max_tokens means the same for every row."""
        return self.params.max_tokens

    def task(self, row: Row) -> Task:
        """Generate, with the row's own seed."""
        params = row.settings or self.params
        named = row.settings.seed if row.settings else None
        return Generate(params.model_copy(update={"seed": row.seed if named is None else named}))

    def cells(self, result: GenerationOutput) -> dict[str, Any]:
        """Give the values of the columns."""
        cells: dict[str, Any] = {
            "generated_text": result.text,
            "finish_reason": result.finish_reason,
            "completion_tokens": len(result.token_ids),
            "cumulative_logprob": result.cumulative_logprob,
        }
        if self.params.logprobs is not None:
            cells["logprobs"] = [
                {
                    "token_id": token.token_id,
                    "logprob": token.logprob,
                    "top": [{"token_id": i, "logprob": logprob} for i, logprob in token.top],
                }
                for token in result.logprobs or ()
            ]
        return cells


class _LabelCells:
    """The columns of both ways to choose a label."""

    __slots__ = ()

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types."""
        return [
            pa.field("label", pa.string()),
            pa.field("label_score", pa.float64()),
            pa.field("label_scores", LABEL_SCORES),
        ]

    def cells(self, result: ClassificationOutput) -> dict[str, Any]:
        """Give the values of the columns."""
        scores = [{"label": item.label, "score": item.score} for item in result.scores]
        return {"label": result.label, "label_score": result.score, "label_scores": scores}


@dataclass(frozen=True, slots=True)
class ScoreLabelsColumns(_LabelCells):
    """label, label_score and label_scores, from the likelihood of each label as the answer."""

    labels: LabelTokens

    @property
    def reserve(self) -> int:
        """All but the last token of the longest label are computed behind the prompt."""
        return self.labels.longest - 1

    def task(self, row: Row) -> Task:
        """ScoreLabels, with the tokens that fit the end of the prompt."""
        return self.labels.task(spaced=row.spaced)


@dataclass(frozen=True, slots=True)
class ClassifyColumns(_LabelCells):
    """label, label_score and label_scores, from the classification head."""

    @property
    def reserve(self) -> int:
        """Nothing follows the prompt."""
        return 0

    def task(self, row: Row) -> Task:  # noqa: ARG002 - the prompt is all there is
        """Classify."""
        return Classify()


@dataclass(frozen=True, slots=True)
class TagColumns:
    """entities: labelled spans of the prompt's text."""

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types."""
        return [pa.field("entities", ENTITIES)]

    @property
    def reserve(self) -> int:
        """Nothing follows the prompt."""
        return 0

    def task(self, row: Row) -> Task:
        """TagTokens, with the text that the spans are cut from."""
        return TagTokens(row.text, row.offsets)

    def cells(self, result: TaggingOutput) -> dict[str, Any]:
        """Give the values of the columns."""
        names = ("label", "start", "end", "text", "score")
        return {"entities": [{n: getattr(e, n) for n in names} for e in result.entities]}


@dataclass(frozen=True, slots=True)
class EmbedColumns:
    """embedding: one float32 vector."""

    settings: EmbedSettings

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Names and types."""
        return [pa.field("embedding", pa.list_(pa.float32()))]

    @property
    def reserve(self) -> int:
        """Nothing follows the prompt."""
        return 0

    def task(self, row: Row) -> Task:  # noqa: ARG002 - the prompt is all there is
        """Embed."""
        return Embed(self.settings.pooling, self.settings.normalize)

    def cells(self, result: EmbeddingOutput) -> dict[str, Any]:
        """Give the values of the columns."""
        return {"embedding": result.embedding}


@dataclass(frozen=True, slots=True)
class JobTasks:
    """All tasks of a job, which share each row's prefill."""

    columns: tuple[ResultColumns, ...]

    @classmethod
    def of(cls, tasks: Tasks, labels: LabelTokens | None) -> "JobTasks":
        """Make the tasks; `labels` belongs to score_labels."""
        columns: list[ResultColumns] = []
        if tasks.generate:
            columns.append(GenerateColumns(tasks.generate))
        if tasks.score_labels:
            assert labels is not None
            columns.append(ScoreLabelsColumns(labels))
        if tasks.classify:
            columns.append(ClassifyColumns())
        if tasks.tag_tokens:
            columns.append(TagColumns())
        if tasks.embed:
            columns.append(EmbedColumns(tasks.embed))
        return cls(tuple(columns))

    @property
    def fields(self) -> list[pa.Field]:
        """The result columns of all tasks."""
        return [field for columns in self.columns for field in columns.fields]

    @property
    def reserve(self) -> int:
        """Tokens that must fit behind the prompt."""
        return max(columns.reserve for columns in self.columns)

    @property
    def reserve_beside(self) -> int:
        """The same for all tasks but generate."""
        others = (columns for columns in self.columns if not isinstance(columns, GenerateColumns))
        return max((columns.reserve for columns in others), default=0)

    @property
    def needs_text(self) -> bool:
        """Whether a task needs the text that the prompt was encoded from."""
        return any(isinstance(columns, TagColumns) for columns in self.columns)

    def tasks(self, row: Row) -> list[Task]:
        """Give what the engine is asked for a row."""
        return [columns.task(row) for columns in self.columns]

    def cells(self, results: Sequence[TaskOutput]) -> dict[str, Any]:
        """Give the values of a row's result columns."""
        cells: dict[str, Any] = {}
        for columns, result in zip(self.columns, results, strict=True):
            cells |= columns.cells(result)
        return cells


def tasks_of(spec: JobSpec, checkpoint: CheckpointInfo) -> JobTasks:
    """Give the tasks of a job, its labels encoded.

    Raises:
        ParameterError: labels can't be told apart, no prompt could be as short as it must be, or
            what the answers have to be can't be compiled.
    """
    constraint = spec.tasks.generate.constraint if spec.tasks.generate else None
    if constraint is not None:
        check_constraint(constraint)
    labels = None
    if spec.tasks.score_labels:
        labels = label_tokens(spec.tasks.score_labels, checkpoint.tokenizer, chat=checkpoint.chat)
    tasks = JobTasks.of(spec.tasks, labels)
    if tasks.reserve >= checkpoint.max_model_len:
        raise ParameterError(
            f"the answer may take {tasks.reserve} tokens, which leaves no room for a prompt in "
            f"{checkpoint.max_model_len}: lower generate.max_tokens"
        )
    return tasks
