"""Rows with settings of their own: what they say holds for them, and for no other row."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.replica import Request
from model.errors import ParameterError
from model.params import SamplingParams
from model.tasks import Generate
from pipelines.check import check
from pipelines.checkpoint_info import inspect_checkpoint
from pipelines.fingerprint import fingerprint
from pipelines.job import JobSpec
from pipelines.packet import PROMPTS, unpacked
from pipelines.plan import Unit, row_seed
from pipelines.prepare import Preparer
from pipelines.reader import UnitRows
from pipelines.tasks import tasks_of
from pipelines.work import JobWork

from .data import spec, write

TOP = {"max_tokens": 4, "temperature": 0.5, "stop": ["x"]}


def job(generate: dict[str, Any] | None = None, **changes: Any) -> JobSpec:
    tasks = [{"generate": generate if generate is not None else TOP}]
    return spec(tasks=tasks, **{"settings_column": "s", **changes})


def packet(made: JobSpec, settings: list[Any], texts: list[str] | None = None) -> pa.Table:
    values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in settings]
    table = pa.table({"text": texts or ["a"] * len(values), "s": pa.array(values, pa.string())})
    info = inspect_checkpoint(made)
    maker = Preparer.of(made, info, tasks_of(made, info), pa.schema([]))
    rows = UnitRows(Unit(0, 0, table.num_rows), table, {})
    return replace(maker, max_len=100).packet(rows, "f")


def asked(made: JobSpec, settings: list[Any]) -> list[SamplingParams]:
    """What the engine is asked for each row."""
    info = inspect_checkpoint(made)
    requests = JobWork(tasks_of(made, info), 7).requests(packet(made, settings))
    params = []
    for request in requests:
        assert isinstance(request, Request)
        (task,) = request.tasks
        assert isinstance(task, Generate)
        params.append(task.params)
    return params


def errors(made: JobSpec, settings: list[Any]) -> list[tuple[str | None, str | None]]:
    rows = unpacked(packet(made, settings), PROMPTS).to_pylist()
    return [(row["error_class"], row["error"]) for row in rows]


def test_what_a_row_leaves_out_is_the_jobs() -> None:
    seeds = [row_seed(7, "f", row) for row in range(4)]
    given = [{"temperature": 2, "max_tokens": 9}, None, {}, {"seed": 5, "stop": [], "top_k": 3}]
    assert asked(job(), given) == [
        SamplingParams(max_tokens=9, temperature=2.0, stop=("x",), seed=seeds[0]),
        SamplingParams(**TOP, seed=seeds[1]),
        SamplingParams(**TOP, seed=seeds[2]),
        SamplingParams(max_tokens=4, temperature=0.5, top_k=3, seed=5),
    ]


def test_the_jobs_seed_is_not_the_rows() -> None:
    own = asked(job({**TOP, "seed": 3}), [{}, {"seed": 3}])
    assert [params.seed for params in own] == [row_seed(7, "f", 0), 3]


def test_settings_of_all_kinds_arrive_whole() -> None:
    given = [
        {"logit_bias": {"5": 1.5}, "stop_token_ids": [1, 2], "ignore_eos": True},
        {"json_schema": {"type": "object"}},
        {"choice": ["a", "b"], "min_p": 0.1},
        {"json_object": True},
    ]
    bias, schema, choice, anything = asked(job({"max_tokens": 4}), given)
    assert bias.logit_bias == {5: 1.5}
    assert (bias.stop_token_ids, bias.ignore_eos) == ((1, 2), True)
    assert schema.constraint is not None
    assert (schema.constraint.kind, schema.constraint.text) == ("json_schema", '{"type": "object"}')
    assert (choice.choice, choice.min_p) == (("a", "b"), 0.1)
    assert anything.json_object


def test_another_form_replaces_the_jobs() -> None:
    first, second = asked(job({"max_tokens": 4, "regex": "a+"}), [{"json_object": True}, {}])
    assert (first.regex, first.json_object) == (None, True)
    assert (second.regex, second.json_object) == ("a+", False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "it is not valid JSON"),
        ("[]", "it holds no JSON object"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 101}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1, "min_tokens": 2}, "min_tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"n": 2}, "n must be 1"),
        ({"logprobs": 1}, "set generate.logprobs in the job"),
        ({"regex": "a", "json_object": True}, "one constraint"),
        ('{"temperature": NaN}', "temperature"),
    ],
)
def test_what_cannot_be_used_is_the_error_of_its_row(given: Any, message: str) -> None:
    bad, good = errors(job(), [given, {}])
    assert bad[0] == "ParameterError"
    assert "column 's'" in str(bad[1])
    assert message in str(bad[1])
    assert good == (None, None)


def test_log_probabilities_follow_the_row_where_the_job_has_them() -> None:
    with_two, own, none = asked(
        job({**TOP, "logprobs": 2}), [{}, {"logprobs": 5}, {"logprobs": None}]
    )
    assert (with_two.logprobs, own.logprobs, none.logprobs) == (2, 5, None)


def test_room_is_kept_for_the_rows_own_answer() -> None:
    text = "a " * 60
    rows = unpacked(
        packet(job({"max_tokens": 50}), [{}, {"max_tokens": 5}, None], [text] * 3), PROMPTS
    ).to_pylist()
    assert [row["error_class"] for row in rows] == ["PromptError", None, "PromptError"]


def test_settings_need_a_task_and_a_column_of_text(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="settings of generate"):
        spec(tasks=["embed"], settings_column="s")
    node = [{"CPU": 4.0, "memory": 4e9}]
    files = {"absent": {"text": ["a"]}, "number": {"text": ["a"], "s": [1]}}
    for name, columns in files.items():
        path = write(tmp_path / name / "a.parquet", columns)
        made = job(input=str(path), output=str(tmp_path / "out"))
        with pytest.raises(Exception, match=r"no column 's'|settings are JSON text"):
            check(made, node)


def test_the_column_is_part_of_the_job_only_where_there_is_one() -> None:
    info = inspect_checkpoint(job())
    plain = fingerprint(job(settings_column=None), info, pa.schema([]))
    assert fingerprint(job(), info, pa.schema([])) == {**plain, "settings_column": "s"}
