"""Jobs whose answers have to be of some form: checked at the start, kept, and part of the job."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model.errors import ConstraintError
from pipelines.check import check
from pipelines.checkpoint_info import inspect_checkpoint
from pipelines.fingerprint import fingerprint
from pipelines.job import JobSpec
from pipelines.jobfile import load_job, save_job
from pipelines.local_store import LocalStore
from pipelines.tasks import tasks_of

from .data import spec, write

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": ["x", 1.5]}}}
TURNED = {"type": "object", "properties": {"a": {"enum": ["x", 1.5]}, "b": {"type": "integer"}}}
FORMS: list[dict[str, Any]] = [
    {},
    {"json_object": True},
    {"json_schema": SCHEMA},
    {"json_schema": TURNED},
    {"regex": "[a-z]+"},
    {"choice": ["libs", "admin"]},
    {"choice": ["admin", "libs"]},
]


def job(generate: dict[str, Any], **changes: Any) -> JobSpec:
    return spec(tasks=[{"generate": {"max_tokens": 4, **generate}}], **changes)


def test_the_form_is_part_of_what_the_job_is() -> None:
    info = inspect_checkpoint(job({}))
    prints = [fingerprint(job(form), info, pa.schema([])) for form in FORMS]
    for n, one in enumerate(prints):
        assert prints.index(one) == n
    generate = job({"json_schema": SCHEMA}).tasks.generate
    assert generate is not None
    as_text = job({"json_schema": generate.json_schema})
    assert fingerprint(as_text, info, pa.schema([])) == prints[2]


@pytest.mark.parametrize("form", FORMS)
def test_a_job_is_kept_as_it_was_run(tmp_path: Path, form: dict[str, Any]) -> None:
    store = LocalStore(tmp_path)
    save_job(store, job(form))
    assert load_job(store) == job(form)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"regex": "(a"}, "regex: unclosed group"),
        ({"json_schema": {"$ref": "#"}}, "json_schema: no text can meet it"),
    ],
)
def test_a_form_that_can_not_be_compiled_is_refused_at_the_start(
    tmp_path: Path, form: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "in.parquet", {"text": ["a"]})
    with pytest.raises(ConstraintError) as error:
        tasks_of(job(form), inspect_checkpoint(job(form)))
    assert str(error.value) == message
    with pytest.raises(Exception, match=message.split(":", maxsplit=1)[0]) as whole:
        check(job(form, input=str(path), output=str(tmp_path / "out")), [{"CPU": 2.0}])
    assert message in str(whole.value)
