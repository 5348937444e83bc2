import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.trace import Trace
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
from pipelines import StorageError
from pipelines.attempts import noted
from pipelines.commit import Receipt, read_receipt
from pipelines.local_store import LocalStore
from pipelines.packet import (
    ANSWERS,
    PROMPTS,
    for_rows,
    from_bytes,
    make_packet,
    result_table,
    rows_of,
    sliced,
    to_bytes,
    unit_of,
    unpacked,
)
from pipelines.plan import Unit, row_seed
from pipelines.prepare import PROMPT_SCHEMA
from pipelines.reply import read_replies
from pipelines.schema import output_schema
from pipelines.sink import NewParts
from pipelines.tasks import JobTasks
from pipelines.work import JobWork

from .data import spec
from .test_plan import plan

TRACE = Trace(1.5, 2.5, "r1", (1, 0, 2), 3)
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
    answered = work.answered(made, {0: RequestOutput("r", 2, outputs)}, TRACE)
    schema = output_schema(pa.schema([("id", pa.int64())]), tasks)
    (row,) = result_table(answered, schema).to_pylist()
    identity = {"id": 3, "source_file": "a.parquet", "source_row": 3, "prompt_tokens": 2}
    assert {name: row.pop(name) for name in identity} == identity
    assert (row.pop("error"), row.pop("error_class")) == (None, None)
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


def rows_with(count: int) -> list[dict[str, Any]]:
    return [{"prompt_ids": [n + 1], "prompt_tokens": 1, "spaced": False} for n in range(count)]


def seeds(work: JobWork, made: pa.Table) -> list[int | None]:
    tasks = [request.tasks[0] for request in work.requests(made) if request]
    return [task.params.seed for task in tasks if isinstance(task, Generate)]


def test_some_rows_of_a_packet_are_the_rows_that_they_were() -> None:
    work = JobWork(job_tasks("generate"), 7)
    whole = packet(Unit(0, 40, 44), rows_with(4))
    part = sliced(whole, 1, 3)
    assert (unit_of(part), rows_of(part)) == (Unit(0, 40, 44), [41, 42])
    assert unpacked(part, PROMPTS)["prompt_ids"].to_pylist() == [[2], [3]]
    assert seeds(work, part) == seeds(work, whole)[1:3]
    apart = for_rows(part, [40, 43])
    assert seeds(work, apart) == [seeds(work, whole)[0], seeds(work, whole)[3]]
    assert rows_of(sliced(apart, 1, 2)) == [43]


def test_what_becomes_of_a_packet_is_told_in_a_few_bytes(tmp_path: Path) -> None:
    tasks, unit, store = job_tasks("generate"), Unit(0, 40, 44), LocalStore(str(tmp_path))
    made = plan(44, unit_rows=40)
    schema = output_schema(pa.schema([("id", pa.int64())]), tasks)
    work = JobWork(tasks, 7, NewParts(store, made, schema))
    whole = packet(unit, rows_with(4))
    work.begin(whole, 1)
    work.begin(whole, 2)
    assert noted(store) == {unit: 2}
    given_up = work.given_up(whole)
    assert list(read_replies(given_up)) == [unit]
    assert noted(store) == {unit: 2}
    reply = work.commit(work.answered(whole, {}, replace(TRACE, attempt=2)))
    assert reply.schema == given_up.schema
    assert reply.nbytes < 800
    (receipt,) = read_replies(reply)
    assert isinstance(receipt, Receipt)
    assert receipt == read_receipt(store, made.part_name(unit))
    assert noted(store) == {}


def test_a_store_that_takes_nothing_any_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tasks, store = job_tasks("generate"), LocalStore(str(tmp_path))
    schema = output_schema(pa.schema([("id", pa.int64())]), tasks)
    work = JobWork(tasks, 7, NewParts(store, plan(44, unit_rows=40), schema))
    whole = packet(Unit(0, 40, 44), rows_with(4))
    monkeypatch.setattr(LocalStore, "put_if_absent", full)
    with pytest.raises(StorageError, match=f"{tmp_path} can't be written any more: .*No space"):
        work.begin(whole, 1)
    with pytest.raises(StorageError, match=r"can't write a\.parquet rows 40-44: .*No space left"):
        work.commit(work.answered(whole, {}, TRACE))


def test_a_packet_can_be_written_down() -> None:
    answered = JobWork(job_tasks("generate"), 7).answered(
        packet(Unit(0, 3, 5), rows_with(2)), {}, TRACE
    )
    again = from_bytes(to_bytes(answered))
    assert again == answered
    assert unpacked(again, ANSWERS) == unpacked(answered, ANSWERS)


def test_tagging_requests_carry_text_and_offsets() -> None:
    work = JobWork(job_tasks("tag_tokens", "embed", "classify"), 7)
    row = {"prompt_ids": [1, 2], "spaced": True, "text": "ab", "offsets": [0, 0, 0, 2]}
    (request,) = work.requests(packet(Unit(0, 0, 1), [row]))
    assert request is not None
    assert list(request.tasks) == [Classify(), TagTokens("ab", ((0, 0), (0, 2))), Embed()]


def test_rows_that_failed_say_why_and_others_go_on() -> None:
    tasks = job_tasks("classify")
    rows: list[dict[str, Any]] = [
        {"error_class": "InputError", "error": "unreadable"},
        {"prompt_ids": [1], "prompt_tokens": 1, "spaced": True},
    ]
    made = packet(Unit(0, 0, 2), rows)
    answered = JobWork(tasks, 7).answered(made, {1: PromptError("too long")}, TRACE)
    table = result_table(answered, output_schema(pa.schema([("id", pa.int64())]), tasks))
    assert table["error"].to_pylist() == ["unreadable", "too long"]
    assert table["error_class"].to_pylist() == ["InputError", "PromptError"]
    assert table.column_names[-2:] == ["error_class", "error"]
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
