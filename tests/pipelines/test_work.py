from typing import Any

import pyarrow as pa

from model.errors import PromptError
from model.outputs import (
    ClassificationOutput,
    Completion,
    EmbeddingOutput,
    Entity,
    GenerationOutput,
    LabelScore,
    RequestOutput,
    TaggingOutput,
    TaskOutput,
    TokenLogprob,
)
from model.tasks import Classify, Embed, Generate, TagTokens
from pipelines.packet import make_packet, result_table
from pipelines.plan import Unit, row_seed
from pipelines.prepare import PROMPT_SCHEMA
from pipelines.schema import output_schema
from pipelines.tasks import JobTasks
from pipelines.work import JobWork

from .data import spec

COMPLETION = Completion((5, 6), "hi", "stop", -0.5, (TokenLogprob(5, -0.25, ((5, -0.25),)),))


def job_tasks(*tasks: Any) -> JobTasks:
    return JobTasks.of(spec(tasks=list(tasks)).tasks, None)


def packet(unit: Unit, rows: list[dict[str, Any]]) -> pa.Table:
    kept = pa.table({"id": range(unit.first, unit.last)})
    return make_packet(unit, "a.parquet", pa.Table.from_pylist(rows, PROMPT_SCHEMA), kept)


def results(tasks: JobTasks, *outputs: TaskOutput) -> dict[str, Any]:
    """The row that the outputs of one request become."""
    work = JobWork(tasks, 7)
    made = packet(Unit(0, 3, 4), [{"prompt_ids": [1, 2], "prompt_tokens": 2, "spaced": True}])
    answered = work.answered(made, {0: RequestOutput("r", 2, outputs)})
    schema = output_schema(pa.schema([("id", pa.int64())]), tasks)
    (row,) = result_table(answered, schema).to_pylist()
    identity = {"id": 3, "source_file": "a.parquet", "source_row": 3, "prompt_tokens": 2}
    assert {name: row.pop(name) for name in identity} == identity
    assert row.pop("error") is None
    found: dict[str, Any] = row
    return found


def test_requests_carry_each_rows_own_seed() -> None:
    work = JobWork(job_tasks({"generate": {"max_tokens": 9, "seed": 1}}), 7)
    rows: list[dict[str, Any]] = [
        {"prompt_ids": [1, 2], "prompt_tokens": 2, "spaced": True},
        {"error": "bad"},
        {"prompt_ids": [3], "prompt_tokens": 1, "spaced": False},
    ]
    first, none, last = work.requests(packet(Unit(0, 40, 43), rows))
    assert none is None
    assert first is not None
    assert last is not None
    assert (first.prompt_ids, last.prompt_ids) == ([1, 2], [3])
    (task,) = last.tasks
    assert isinstance(task, Generate)
    assert task.params.seed == row_seed(7, "a.parquet", 42)
    assert task.params.max_tokens == 9


def test_tagging_requests_carry_text_and_offsets() -> None:
    work = JobWork(job_tasks("tag_tokens", "embed", "classify"), 7)
    row = {"prompt_ids": [1, 2], "spaced": True, "text": "ab", "offsets": [0, 0, 0, 2]}
    (request,) = work.requests(packet(Unit(0, 0, 1), [row]))
    assert request is not None
    assert list(request.tasks) == [Classify(), TagTokens("ab", ((0, 0), (0, 2))), Embed()]


def test_rows_that_failed_say_why_and_others_go_on() -> None:
    tasks = job_tasks("classify")
    rows: list[dict[str, Any]] = [
        {"error": "unreadable"},
        {"prompt_ids": [1], "prompt_tokens": 1, "spaced": True},
    ]
    made = packet(Unit(0, 0, 2), rows)
    answered = JobWork(tasks, 7).answered(made, {1: PromptError("too long")})
    table = result_table(answered, output_schema(pa.schema([("id", pa.int64())]), tasks))
    assert table["error"].to_pylist() == ["unreadable", "too long"]
    assert table["label"].null_count == 2
    assert table["id"].to_pylist() == [0, 1]
    assert table["prompt_tokens"].to_pylist() == [None, 1]


def test_generated_text() -> None:
    columns = {
        "generated_text": "hi",
        "finish_reason": "stop",
        "completion_tokens": 2,
        "cumulative_logprob": -0.5,
    }
    output = GenerationOutput(2, (COMPLETION,))
    assert results(job_tasks("generate"), output) == columns
    token = {"token_id": 5, "logprob": -0.25, "top": [{"token_id": 5, "logprob": -0.25}]}
    with_logprobs = job_tasks({"generate": {"logprobs": 1}})
    assert results(with_logprobs, output) == {**columns, "logprobs": [token]}


def test_labels() -> None:
    scores = (LabelScore("a", 0.75), LabelScore("b", 0.25))
    output = ClassificationOutput(2, "a", 0.75, scores, (1.0, 0.0))
    assert results(job_tasks("classify"), output) == {
        "label": "a",
        "label_score": 0.75,
        "label_scores": [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}],
    }


def test_entities_and_vectors() -> None:
    tagging = TaggingOutput(2, (Entity("PER", 0, 3, "Ann", 0.5),), ("PER",), (0.5,))
    vector = EmbeddingOutput(2, (0.5, -0.25))
    assert results(job_tasks("tag_tokens", "embed"), tagging, vector) == {
        "entities": [{"label": "PER", "start": 0, "end": 3, "text": "Ann", "score": 0.5}],
        "embedding": [0.5, -0.25],
    }
