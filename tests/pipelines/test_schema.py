from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import InputError, JobSpec
from pipelines.inputs import read_footers
from pipelines.listing import find_files
from pipelines.prompts import PromptSource
from pipelines.schema import check_columns, output_schema, read_columns
from pipelines.tasks import JobTasks

from .data import spec, write

TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


def job_tasks(*names: str) -> JobTasks:
    return JobTasks.of(spec(tasks=list(names)).tasks, None)


def kept(folder: Path, job: JobSpec) -> pa.Schema:
    source = PromptSource.of(job)
    footers = read_footers(find_files([str(folder)]), read_columns(source, job.keep))
    return check_columns(footers, source, job.keep)


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as error:
        kept(folder, spec(**changes))
    return str(error.value)


def test_kept_columns_keep_their_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a"]),
            "when": pa.array([0], pa.timestamp("us", "UTC")),
            "amount": pa.array([None], pa.decimal128(9, 2)),
            "tags": pa.array([["x"]], pa.list_(pa.string())),
            "nested": pa.array([{"a": 1}], pa.struct([pa.field("a", pa.int8(), nullable=False)])),
        }
    )
    write(tmp_path / "a.parquet", table)
    everything = kept(tmp_path, spec())
    assert everything.names == table.schema.names
    assert everything.field("when").type == pa.timestamp("us", "UTC")
    some = kept(tmp_path, spec(keep=["amount", "text"]))
    assert some.names == ["amount", "text"]
    assert kept(tmp_path, spec(keep=[])).names == []


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_text_is_read_the_same_in_all_its_types(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path / "a.parquet", {"text": pa.array(["x"]).cast(kind)})
    assert kept(tmp_path, spec()).names == ["text"]
    assert kept(tmp_path, spec(prompt=None, prompt_column="text")).names == ["text"]
    assert kept(tmp_path, spec(prompt=None, messages="text")).names == ["text"]


def test_files_that_spell_text_differently_agree_on_large_string(tmp_path: Path) -> None:
    for number, kind in enumerate(TEXTS):
        write(tmp_path / f"{number}.parquet", {"text": pa.array(["x"]).cast(kind)})
    assert kept(tmp_path, spec()).field("text").type == pa.large_string()


def test_a_missing_column_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": ["x"], "id": [1]})
    write(tmp_path / "b.parquet", {"texts": ["x"], "id": [1]})
    write(tmp_path / "c.parquet", {"text": ["x"]})
    assert refusal(tmp_path, keep=["id"]).splitlines()[1:] == [
        "  b.parquet: there is no column 'text'; did you mean 'texts'?",
        "  c.parquet: there is no column 'id'; it has text",
    ]
    assert "there is no column 'nowhere'" in refusal(tmp_path, keep=["nowhere"])


def test_mixed_schemas_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": ["x"], "id": [1]})
    write(tmp_path / "b.parquet", {"text": ["x"], "id": ["1"]})
    assert "b.parquet: column 'id' is string, but int64 in other files" in refusal(tmp_path)
    assert kept(tmp_path, spec(keep=["text"])).names == ["text"]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table([["x"], ["y"]], names=["text", "text"]))
    assert "column 'text' is there twice" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (pa.array([1.5]), {}, "column 'text' is double; the prompt needs text or an integer"),
        (pa.array([b"x"]), {}, "is binary"),
        (pa.array([["x"]]), {}, "is list<"),
        (pa.array([1]), {"prompt": None, "prompt_column": "text"}, "is int64; the prompt needs t"),
        (pa.array([1]), {"prompt": None, "messages": "text"}, "list<struct<role, content>>"),
        (pa.array([[{"role": "user"}]]), {"prompt": None, "messages": "text"}, "is list<"),
    ],
)
def test_prompts_of_other_types_are_refused(
    tmp_path: Path, values: pa.Array, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path / "a.parquet", {"text": values})
    assert message in refusal(tmp_path, **changes)


def test_integers_and_lists_of_messages_can_be_prompts(tmp_path: Path) -> None:
    messages = pa.array([[{"role": "user", "content": "x", "name": None}]])
    write(tmp_path / "a.parquet", {"text": [1], "chat": messages})
    assert kept(tmp_path, spec()).names == ["text", "chat"]
    assert kept(tmp_path, spec(prompt=None, messages="chat", keep=[])).names == []


def test_result_columns_of_each_task() -> None:
    tasks = job_tasks("generate", "classify", "embed", "tag_tokens")
    schema = output_schema(pa.schema([("id", pa.int64())]), tasks)
    assert schema.names == [
        *["id", "source_file", "source_row", "prompt_tokens"],
        *["generated_text", "finish_reason", "completion_tokens", "cumulative_logprob"],
        *["label", "label_score", "label_scores"],
        *["entities", "embedding", "error_class", "error"],
    ]
    assert all(field.nullable for field in schema)


def test_kept_columns_with_names_of_results_are_refused() -> None:
    tasks = job_tasks("classify")
    kept_columns = pa.schema([("label", pa.string()), ("error", pa.string())])
    with pytest.raises(InputError, match=r"'error' has the name of a result column.*label"):
        output_schema(kept_columns, tasks)
    assert output_schema(pa.schema([("generated_text", pa.string())]), tasks)


def test_types_that_parquet_cannot_hold_are_refused() -> None:
    with pytest.raises(InputError, match="column 'x' can't be kept"):
        output_schema(pa.schema([("x", pa.struct([]))]), job_tasks("classify"))
