"""What a job computes for each row: engine tasks in, typed result columns out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from model.constrain import check_constraint
from model.errors import ParameterError
from model.labels import LabelTokens
from model.long_texts import LongTexts, LongTextsMode
from model.outputs import GenerationOutput, TaskOutput
from model.params import SamplingParams
from model.pooling import inner_layer
from model.tasks import Generate, Task

from .checkpoint_info import CheckpointInfo
from .head_columns import ClassifyColumns, EmbedColumns, LabelCells, TagColumns
from .job import JobSpec
from .labels import label_tokens
from .plan import MIN_UNIT_ROWS
from .result_columns import ResultColumns, Row
from .task_settings import Tasks

_TOP = pa.list_(pa.struct([("token_id", pa.int32()), ("logprob", pa.float64())]))
LENGTH_FIELDS: dict[LongTextsMode, list[pa.Field]] = {
    "error": [],
    "truncate": [pa.field("truncated", pa.bool_())],
    "stride": [pa.field("windows", pa.int32())],
}
LOGPROBS = pa.list_(pa.struct([("token_id", pa.int32()), ("logprob", pa.float64()), ("top", _TOP)]))


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


@dataclass(frozen=True, slots=True)
class ScoreLabelsColumns(LabelCells):
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
class JobTasks:
    """All tasks of a job, which share each row's prefill.

    Attributes:
        columns: of each task.
        long_texts: what becomes of prompts that are too long.
    """

    columns: tuple[ResultColumns, ...]
    long_texts: LongTextsMode = "error"

    @classmethod
    def of(
        cls, tasks: Tasks, labels: LabelTokens | None, long_texts: LongTextsMode = "error"
    ) -> "JobTasks":
        """Make the tasks; `labels` belongs to score_labels."""
        columns: list[ResultColumns] = []
        if tasks.generate:
            columns.append(GenerateColumns(tasks.generate))
        if tasks.score_labels:
            assert labels is not None
            columns.append(ScoreLabelsColumns(labels))
        if tasks.classify:
            columns.append(ClassifyColumns(tasks.classify))
        if tasks.tag_tokens:
            columns.append(TagColumns(tasks.tag_tokens))
        if tasks.embed:
            columns.append(EmbedColumns(tasks.embed))
        return cls(tuple(columns), long_texts)

    @property
    def fields(self) -> list[pa.Field]:
        """The result columns: what became of a long text, and those of all tasks."""
        return [*self.length_fields, *(field for some in self.columns for field in some.fields)]

    @property
    def length_fields(self) -> list[pa.Field]:
        """Columns that say if a prompt was too long, where that is no error."""
        return LENGTH_FIELDS[self.long_texts]

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
    def unit_rows(self) -> int | None:
        """Rows that are best committed together; None where any number is.

        A hidden state for each token makes rows of megabytes.
        """
        large = any(isinstance(one, EmbedColumns) and one.many for one in self.columns)
        return MIN_UNIT_ROWS if large else None

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
        ParameterError: labels can't be told apart, there is no such layer, the stride or the answer
            leaves no room for a prompt, or what the answers have to be can't be compiled.
    """
    constraint = spec.tasks.generate.constraint if spec.tasks.generate else None
    if constraint is not None:
        check_constraint(constraint)
    labels = None
    if spec.tasks.score_labels:
        labels = label_tokens(spec.tasks.score_labels, checkpoint.tokenizer, chat=checkpoint.chat)
    if spec.tasks.embed:
        inner_layer(spec.tasks.embed.layer, checkpoint.config.num_hidden_layers)
    LongTexts(spec.long_texts, spec.stride).check(checkpoint.max_model_len)
    tasks = JobTasks.of(spec.tasks, labels, spec.long_texts)
    if tasks.reserve >= checkpoint.max_model_len:
        raise ParameterError(
            f"the answer may take {tasks.reserve} tokens, which leaves no room for a prompt in "
            f"{checkpoint.max_model_len}: lower generate.max_tokens"
        )
    return tasks
