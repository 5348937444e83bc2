"""A row that ends the process that computes it, on the session's cluster, with a stub engine."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipelines.isolation
import pipelines.stream
from actors.replica import Replica
from pipelines import ErrorCount, JobInterrupted, JobSpec, Progress, retry_failed, run_job
from pipelines.attempts import noted
from pipelines.local_store import LocalStore
from pipelines.trials import FOLDER

from .data import spec, write
from .stub_replica import DeadlyReplica, MildReplica

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROWS, POISON = 24, 9


def use(monkeypatch: pytest.MonkeyPatch, kind: type[Replica]) -> None:
    for module in (pipelines.stream, pipelines.isolation):
        monkeypatch.setattr(module, "Replica", kind)


def job_in(folder: Path, output: str) -> JobSpec:
    texts = [f"row {row}" for row in range(ROWS)]
    texts[POISON] = "poison " * 100
    texts[3] = ""
    source = write(folder / "in.parquet", {"text": texts})
    return spec(
        input=str(source),
        output=str(folder / output),
        prompt=None,
        prompt_column="text",
        chat="raw",
        tasks=[{"generate": {"max_tokens": 4, "seed": 5}}],
        resources={"replicas": 1, "threads": 1},
        unit_rows=4,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


def test_it_costs_one_row_whatever_is_stopped_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, MildReplica)
    run_job(job_in(tmp_path, "undisturbed"))
    wanted = rows(tmp_path / "undisturbed")
    assert [row["source_row"] for row in wanted if row["error"]] == [3]

    use(monkeypatch, DeadlyReplica)
    job, store = job_in(tmp_path, "out"), LocalStore(str(tmp_path / "out"))

    def stop_in_isolation(_: Progress) -> None:
        if any(name.endswith(".ended") for name in store.names(FOLDER)):
            raise KeyboardInterrupt

    with pytest.raises(JobInterrupted, match="run the same job again"):
        run_job(job, on_progress=stop_in_isolation)
    trials = store.names(FOLDER)
    assert not any(
        name.endswith("1.begun") and name[:-5] + "ended" not in trials for name in trials
    )
    assert all(count >= 3 for count in noted(store).values())

    report = run_job(job)
    assert (report.rows_done, report.rows_failed) == (ROWS, 2)
    assert [(item.name, item.count, item.row) for item in report.errors] == [
        ("PromptError", 1, 3),
        ("RowKilledProcess", 1, POISON),
    ]
    found = rows(tmp_path / "out")
    assert found[POISON]["error_class"] == "RowKilledProcess"
    assert "ended, 2 times" in found[POISON]["error"]
    assert found[:POISON] + found[POISON + 1 :] == wanted[:POISON] + wanted[POISON + 1 :]
    assert (store.names(FOLDER), noted(store)) == (set(), {})
    _is_mended(tmp_path / "out", wanted, monkeypatch)


def _is_mended(output: Path, wanted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same row does no harm to a new version of the engine."""
    use(monkeypatch, MildReplica)
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    report = retry_failed(str(output))
    assert (report.rows_retried, report.rows_mended, report.rows_failed) == (1, 1, 1)
    assert report.errors == (
        ErrorCount("PromptError", 1, "in.parquet", 3, "column 'text' is empty"),
    )
    assert rows(output) == wanted
    changed = [p.name for p in output.glob("*.parquet") if p.stat().st_mtime_ns != times[p.name]]
    assert len(changed) == 1
    assert json.loads((output / "_SUCCESS").read_text())["failed"] == 1

    assert retry_failed(str(output)).rows_retried == 0
    report = retry_failed(str(output), everything=True)
    assert (report.rows_retried, report.rows_mended) == (1, 0)
    assert rows(output) == wanted
