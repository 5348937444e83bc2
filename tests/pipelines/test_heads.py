"""Tasks that read a head or hidden states, in a job: settings, prompts, columns, whole runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import Engine, EngineConfig, LongTexts
from model.errors import ParameterError
from model.long_texts import WindowedPrompt
from model.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    Entity,
    HiddenStatesOutput,
    TaggingOutput,
)
from model.tasks import Classify, Embed, TagTokens
from model.tokenizer import load_tokenizer
from pipelines import run_job
from pipelines.checkpoint_info import inspect_checkpoint
from pipelines.fingerprint import fingerprint
from pipelines.head_columns import EmbedColumns
from pipelines.packet import make_packet
from pipelines.plan import Unit
from pipelines.prepare import PROMPT_SCHEMA
from pipelines.result_columns import Row
from pipelines.task_settings import EmbedSettings
from pipelines.tasks import JobTasks, tasks_of
from pipelines.work import JobWork

from .data import CAUSAL_LM, ROOT, spec, write
from .test_prepare import prepared
from .test_work import job_tasks, results

TAGGER = ROOT / "examples" / "tagger"
TEXT = "gnome-chess - " + "tool for libssl-dev " * 6


def test_settings_reach_the_engine() -> None:
    tasks = JobTasks.of(
        spec(
            tasks=[
                {"classify": {"function_to_apply": "sigmoid", "top_k": 2}},
                {"tag_tokens": {"aggregation": "max", "ignore_labels": ["O", "X"]}},
                {"embed": {"pooling": "none", "layer": 3}},
            ]
        ).tasks,
        None,
    )
    row = Row([1], spaced=True, seed=0, text="a", offsets=((0, 1),))
    assert tasks.tasks(row) == [
        Classify("sigmoid"),
        TagTokens("a", ((0, 1),), "max", ("O", "X")),
        Embed("none", normalize=False, layer=3),
    ]


@pytest.mark.parametrize(
    ("tasks", "part"),
    [
        ([{"classify": {"function_to_apply": "tanh"}}], "function_to_apply"),
        ([{"classify": {"top_k": 0}}], "top_k"),
        ([{"tag_tokens": {"aggregation": "last"}}], "aggregation"),
        ([{"embed": {"pooling": "max"}}], "pooling"),
        ([{"embed": {"dtype": "bfloat16"}}], "dtype"),
    ],
)
def test_settings_that_there_are_not(tasks: list[Any], part: str) -> None:
    with pytest.raises(ParameterError, match=part):
        spec(tasks=tasks)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"long_texts": "stride"}, "needs stride: N"),
        ({"long_texts": "truncate", "stride": 3}, "goes with long_texts: stride"),
        ({"stride": 3}, "goes with long_texts: stride"),
        ({"long_texts": "truncate", "tasks": ["generate"]}, "generate goes on after the end"),
        (
            {"long_texts": "truncate", "tasks": [{"score_labels": {"labels": ["a", "b"]}}]},
            "score_labels goes on after the end",
        ),
    ],
)
def test_long_texts_that_contradict_something(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ParameterError, match=part):
        spec(**{"tasks": ["embed"], **changes})


def test_what_only_the_checkpoint_tells_is_checked_before_a_job() -> None:
    for changes, part in (
        ({"tasks": [{"embed": {"layer": 9}}]}, "numbered 0"),
        ({"tasks": ["embed"], "long_texts": "stride", "stride": 8191}, "less than 8191"),
    ):
        job = spec(**changes)
        with pytest.raises(ParameterError, match=part):
            tasks_of(job, inspect_checkpoint(job))


def test_only_what_is_set_is_part_of_the_fingerprint() -> None:
    """Plans of before these settings still fit the jobs that they were made for."""
    job = spec(tasks=["embed"], chat="raw")
    values = fingerprint(job, inspect_checkpoint(job), pa.schema([]))
    assert {key: value for key, value in values.items() if key.startswith("tasks")} == {
        "tasks.embed": True,
        "tasks.embed.pooling": "last",
        "tasks.embed.normalize": True,
    }
    assert "long_texts" not in values
    job = spec(tasks=[{"embed": {"layer": 2}}], chat="raw", long_texts="stride", stride=9)
    values = fingerprint(job, inspect_checkpoint(job), pa.schema([]))
    assert values["tasks.embed.layer"] == 2
    assert (values["long_texts"], values["stride"]) == ("stride", 9)


def test_a_text_that_is_cut_says_so() -> None:
    job = spec(tasks=["embed"], chat="raw", long_texts="truncate")
    long, short = prepared(
        job,
        {"text": [TEXT, "libssl"]},
        long_texts=LongTexts("truncate"),
        max_len=16,
        reserve=0,
        with_text=True,
    )
    tokenizer = load_tokenizer(CAUSAL_LM)
    assert tokenizer is not None
    ids, offsets = tokenizer.encode_with_offsets(TEXT)
    assert long["prompt_ids"] == ids[:16]
    assert long["offsets"] == [place for pair in offsets[:16] for place in pair]
    assert (long["prompt_tokens"], long["truncated"], long["error"]) == (16, True, None)
    assert (short["truncated"], short["bounds"]) == (False, None)


def test_a_text_in_windows_is_one_request() -> None:
    job = spec(tasks=["embed"], chat="raw", long_texts="stride", stride=4)
    cells = prepared(
        job, {"text": [TEXT, "x"]}, long_texts=LongTexts("stride", 4), max_len=16, reserve=0
    )
    assert [row["windows"] for row in cells][1] == 1
    made = make_packet(
        Unit(0, 0, 2), "a.parquet", pa.Table.from_pylist(cells, PROMPT_SCHEMA), pa.table({})
    )
    long, short = JobWork(JobTasks.of(job.tasks, None, "stride"), 7).requests(made)
    assert long is not None
    assert short is not None
    assert isinstance(long.prompt_ids, WindowedPrompt)
    assert len(long.prompt_ids.bounds) == cells[0]["windows"] > 2
    assert cells[0]["prompt_tokens"] == len(long.prompt_ids.ids)
    assert isinstance(short.prompt_ids, list)


def test_the_best_labels() -> None:
    output = ClassificationOutput.of(2, ["a", "b", "c"], [0.2, 0.5, 0.3], [0.0, 1.0, 0.5])
    found = results(job_tasks({"classify": {"top_k": 2}}), output)
    assert found["label_scores"] == [{"label": "b", "score": 0.5}, {"label": "c", "score": 0.3}]


def test_tokens_have_their_index() -> None:
    tagging = TaggingOutput(2, (Entity("B-P", 0, 4, " Ann", 0.5, 3),), ("B-P",), (0.5,))
    found = results(job_tasks({"tag_tokens": {"aggregation": "none"}}), tagging)
    (entity,) = found["entities"]
    assert entity == {
        "label": "B-P",
        "start": 0,
        "end": 4,
        "text": " Ann",
        "score": 0.5,
        "index": 3,
    }


def test_vectors_in_half_precision() -> None:
    tasks = job_tasks({"embed": {"dtype": "float16"}})
    assert tasks.fields[0].type == pa.list_(pa.float16())
    found = results(tasks, EmbeddingOutput(2, (0.1, -65504.0)))
    assert found["embedding"] == [np.float16(0.1), -65504.0]


def test_a_state_that_half_precision_can_not_hold_is_an_error() -> None:
    columns = EmbedColumns(EmbedSettings(dtype="float16", normalize=False))
    with pytest.raises(ParameterError, match="larger than float16 can hold"):
        columns.cells(EmbeddingOutput(2, (1.0, -70000.0)))


def test_states_of_tokens_are_a_list_of_vectors() -> None:
    states = np.arange(6, dtype=np.float32).reshape(2, 3)
    for dtype, kind in (("float32", pa.float32()), ("float16", pa.float16())):
        tasks = job_tasks({"embed": {"pooling": "none", "dtype": dtype}})
        assert tasks.fields[0].type == pa.list_(pa.list_(kind))
        found = results(tasks, HiddenStatesOutput(2, states))
        assert np.array(found["embedding"]).tolist() == states.tolist()


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_of_windows_gives_each_row_once(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", {"text": [TEXT, "gnome-chess - game", None]})
    settings: dict[str, Any] = {"max_model_len": 24, "threads": 1, "replicas": 1}
    job = spec(
        input=str(source),
        output=str(tmp_path / "out"),
        model=str(TAGGER),
        tasks=[
            {"tag_tokens": {"aggregation": "none"}},
            {"embed": {"pooling": "none", "dtype": "float16", "layer": 2}},
        ],
        long_texts="stride",
        stride=6,
        resources=settings,
    )
    report = run_job(job)
    assert (report.rows_done, report.rows_failed) == (3, 1)
    long, short, failed = rows(tmp_path / "out")
    assert failed["error"] is not None
    assert (failed["windows"], failed["embedding"]) == (None, None)
    config = EngineConfig(checkpoint=str(TAGGER), max_model_len=24, threads=1)
    with Engine(config) as engine:
        stride = LongTexts("stride", 6)
        tags = engine.tag_tokens([TEXT], aggregation="none", long_texts=stride)[0]
    assert [e["index"] for e in long["entities"]] == [e.index for e in tags.entities]
    assert long["windows"] > 1
    assert short["windows"] == 1
    for row in (long, short):
        assert np.array(row["embedding"]).shape == (row["prompt_tokens"], 192)
