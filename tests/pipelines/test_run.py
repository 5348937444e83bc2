"""Whole jobs on the session's cluster, with the demo model."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.run
from model.errors import ParameterError, TaskError
from pipelines import JobError, JobInterrupted, PlanMismatch, Progress, run_job
from pipelines.jobfile import load_job
from pipelines.local_store import LocalStore
from pipelines.setup import Job, set_up
from tests.conftest import Bucket

from .data import CLASSIFIER, invalid_text, spec, write

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SAMPLED = {"max_tokens": 6, "temperature": 1.0, "seed": 3}


def text(count: int, start: int = 0) -> dict[str, Any]:
    return {
        "id": pa.array(range(start, start + count), pa.int32()),
        "text": [
            f"Name the section of this Debian package.\npackage-{i}: tool" for i in range(count)
        ],
    }


def rows(folder: Path | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


def test_one_prefill_two_answers_on_two_replicas(tmp_path: Path) -> None:
    for name, count in (("b.parquet", 70), ("a.parquet", 50)):
        write(tmp_path / "in" / name, text(count), row_group_size=40)
    write(
        tmp_path / "in" / "none.parquet",
        pa.table(text(0)).cast(pa.schema([("id", pa.int32()), ("text", pa.string())])),
    )
    seen: list[Progress] = []
    job = spec(
        input=str(tmp_path / "in"),
        output=str(tmp_path / "out"),
        keep=["id"],
        tasks=[{"generate": SAMPLED}, {"score_labels": {"labels": ["games", "web", "libs"]}}],
        resources={"replicas": 2, "threads": 1},
        unit_rows=16,
    )
    report = run_job(job, on_progress=seen.append)

    assert (report.rows_done, report.rows_failed, report.rows_resumed) == (120, 0, 0)
    assert report.parts == 4 + 5 + 1
    assert report.chat
    assert report.output == str(tmp_path / "out")
    found = rows(tmp_path / "out")
    wanted = [("a.parquet", i) for i in range(50)] + [("b.parquet", i) for i in range(70)]
    assert [(row["source_file"], row["source_row"]) for row in found] == wanted
    assert [row["id"] for row in found] == [i for _, i in wanted]
    for row in found:
        assert row["error"] is None
        assert row["finish_reason"] in {"stop", "length"}
        assert 1 <= row["completion_tokens"] <= 6
        assert row["cumulative_logprob"] <= 0
        scores = {item["label"]: item["score"] for item in row["label_scores"]}
        assert list(scores) == ["games", "web", "libs"]
        assert sum(scores.values()) == pytest.approx(1)
        assert row["label_score"] == scores[row["label"]] == max(scores.values())
    assert report.prompt_tokens == sum(row["prompt_tokens"] for row in found)
    assert report.completion_tokens == sum(row["completion_tokens"] for row in found)

    assert all(p.rows_total == 120 and 0 <= p.rows_done <= 120 for p in seen)
    assert seen[-1] == report
    counted = duckdb.execute(f"select count(*) from '{tmp_path}/out/*.parquet'").fetchall()
    assert counted == [(120,)]
    success = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert (success["rows"], len(success["parts"])) == (120, 10)
    _resumes(tmp_path, job)


def _resumes(tmp_path: Path, job: Any) -> None:
    """Lose some parts: only they are computed again, and to the same answers."""
    before = rows(tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    for path in (parts[0], parts[5]):
        path.unlink()
    (tmp_path / "out" / "_SUCCESS").unlink()
    kept = {path: path.stat().st_mtime_ns for path in parts if path.exists()}
    one = job.model_copy(update={"resources": job.resources.model_copy(update={"replicas": 1})})
    report = run_job(one)
    assert report.rows_resumed == 120 - 16 - 16
    assert rows(tmp_path / "out") == before
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())

    # Another model of sampling is another job.
    other = spec(**{**job.model_dump(exclude_unset=True), "tasks": [{"generate": {"seed": 4}}]})
    with pytest.raises(PlanMismatch) as error:
        run_job(other)
    lines = str(error.value).splitlines()
    assert "  tasks.generate.seed: was 3, is 4" in lines
    assert "  tasks.score_labels: was true, is null" in lines


def test_bad_rows_become_error_rows_and_nothing_is_lost(s3: Bucket, tmp_path: Path) -> None:
    good = b"Name the section of this Debian package.\na: b"
    values = invalid_text(good, b"\xff", None, b"", b"a\0b", b"word " * 9000, good)
    table = pa.table({"text": values, "price": pa.array([1.5] * 7, pa.float16())})
    s3.fs.put(str(write(tmp_path / "x.parquet", table)), s3.url("in/x.parquet"))
    job = spec(
        input=s3.url("in/*.parquet"),
        output=s3.url("out"),
        model=str(CLASSIFIER),
        prompt=None,
        prompt_column="text",
        keep=["price"],
        tasks=["classify", {"embed": {"pooling": "mean"}}],
    )
    report = run_job(job)
    assert (report.rows_done, report.rows_failed) == (7, 5)
    (part,) = s3.fs.glob(s3.url("out/*.parquet"))
    with s3.fs.open(part) as file:
        found = pq.read_table(file)
    assert found.schema.field("price").type == pa.float16()
    assert found["source_row"].to_pylist() == list(range(7))
    failed = [error is not None for error in found["error"].to_pylist()]
    assert failed == [False, True, True, True, True, True, False]
    assert found["label"].is_null().to_pylist() == failed
    first, last = found["embedding"].to_pylist()[0], found["embedding"].to_pylist()[-1]
    assert first == pytest.approx(last)
    assert sum(x * x for x in first) == pytest.approx(1, rel=1e-3)
    assert s3.fs.exists(s3.url("out/_SUCCESS"))
    assert run_job(job).rows_resumed == 7


def test_inputs_without_rows_give_a_readable_result(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", pa.schema([("text", pa.large_string())]).empty_table())
    report = run_job(spec(input=str(tmp_path / "in.parquet"), output=str(tmp_path / "out")))
    assert (report.rows_total, report.parts) == (0, 1)
    table = pq.read_table(tmp_path / "out")
    assert table.num_rows == 0
    assert table.schema.field("text").type == pa.large_string()
    assert "generated_text" in table.schema.names


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    write(tmp_path / "in.parquet", text(100))
    return {"input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out")}


def test_an_interrupted_job_says_how_to_go_on(source: dict[str, Any]) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.rows_done:
            raise KeyboardInterrupt

    job = spec(**source, limit=64, unit_rows=4)
    with pytest.raises(JobInterrupted, match=r"of 64 rows committed.*run the same job again"):
        run_job(job, on_progress=interrupt)
    report = run_job(job)
    assert report.rows_done == 64
    assert len(rows(source["output"])) == 64


def test_too_many_errors_stop_a_job_that_a_higher_limit_lets_go_on(tmp_path: Path) -> None:
    texts = ["", "a"] * 20
    job = spec(
        input=str(write(tmp_path / "in.parquet", {"text": texts})),
        output=str(tmp_path / "out"),
        prompt=None,
        prompt_column="text",
        unit_rows=4,
        max_error_rate=0.25,
    )
    with pytest.raises(JobError, match=r"more than max_error_rate \(0.25\)") as error:
        run_job(job)
    assert "PromptError (in.parquet row " in str(error.value)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    with pytest.raises(JobError, match="max_error_rate"):
        run_job(job)
    committed = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert committed
    report = run_job(job.model_copy(update={"max_error_rate": 0.5}))
    assert (report.rows_done, report.rows_failed) == (40, 20)
    assert all(path.stat().st_mtime_ns == time for path, time in committed.items())
    assert load_job(LocalStore(str(tmp_path / "out"))).max_error_rate == 0.25


def test_an_input_that_changes_under_the_job_stops_it(
    source: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_up_and_change(*arguments: Any) -> Job:
        job = set_up(*arguments)
        write(Path(source["input"]), text(100, start=1))
        return job

    monkeypatch.setattr(pipelines.run, "set_up", set_up_and_change)
    with pytest.raises(JobError, match="changed since the job was planned"):
        run_job(spec(**source, limit=10))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"tasks": ["classify"]}, TaskError, "classify needs a sequence_classification checkpoint"),
        ({"tasks": ["tag_tokens"]}, TaskError, "token_classification"),
        ({"model": str(CLASSIFIER)}, TaskError, "generate needs a causal_lm checkpoint"),
        (
            {"tasks": [{"generate": {"max_tokens": 100_000}}]},
            ParameterError,
            "no room for a prompt",
        ),
        ({"resources": {"replicas": 40}}, JobError, "40 replicas do not fit"),
        ({"resources": {"kv_cache_bytes": 65536}}, JobError, "raise kv_cache_bytes"),
    ],
)
def test_jobs_that_cannot_run_say_why_in_one_line(
    source: dict[str, Any], changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        run_job(spec(**source, limit=10, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR"],
)
def test_it_does_not_start_where_parquet_can_run_code(
    source: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(JobError, match=name):
        run_job(spec(**source))
