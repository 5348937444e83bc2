"""Row 7: memory that runs out, and disks that are full, fail or are too small."""

import errno
import os
import re
import resource
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import JobError, JobSpec, run_job
from pipelines.local_store import LocalStore
from tests.pipelines.data import spec, write

from . import stub

ROWS = 64
LONG = 100  # tokens, which one row of the input has


def a_job(folder: Path, output: str) -> JobSpec:
    texts = [f"row {row}" for row in range(ROWS)]
    texts[9] = "word " * 2 * LONG
    source = write(folder / "in.parquet", {"text": texts}) if output == "out" else None
    return spec(
        input=str(source or folder / "in.parquet"),
        output=str(folder / output),
        prompt=None,
        prompt_column="text",
        tasks=[{"generate": {"max_tokens": 4, "seed": 5}}],
        resources={"replicas": 1, "threads": 1},
        unit_rows=8,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


def use(monkeypatch: pytest.MonkeyPatch, mischief: stub.Mischief | None) -> None:
    for module in stub.users():
        monkeypatch.setattr(module, "Replica", stub.shipped(mischief=mischief))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", ["kill", "exhaust"])
def test_a_replica_that_runs_out_of_memory_or_is_killed_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    acts = tmp_path / "acts"
    acts.mkdir()
    use(monkeypatch, stub.Mischief(kind, LONG, str(acts), times=1))
    report = run_job(a_job(tmp_path, "out"))
    assert len(list(acts.iterdir())) == 1
    assert (report.rows_done, report.rows_failed) == (ROWS, 0)
    assert [row["source_row"] for row in rows(tmp_path / "out")] == list(range(ROWS))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_disk_that_is_full_ends_the_job_cleanly_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = tmp_path / "acts"
    acts.mkdir()
    use(monkeypatch, stub.Mischief("full disk", 0, str(acts), times=3))
    job = a_job(tmp_path, "out")
    ends = [ended(job) for _ in range(5)]
    assert 1 <= len(list(acts.iterdir())) <= 3 + 4
    assert ends[-1] is None
    for end in filter(None, ends):
        assert re.fullmatch(
            r"\S+/out: can't write in\.parquet rows \d+-\d+: .*No space left on device: '\S+'", end
        )
    assert [row["source_row"] for row in rows(tmp_path / "out")] == list(range(ROWS))


def ended(job: JobSpec) -> str | None:
    """Run a job; give what it ended with, if that was no success."""
    try:
        run_job(job)
    except JobError as error:
        return str(error)
    return None


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = LocalStore(str(tmp_path))
    assert store.put_if_absent("a", b"small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            store.put_if_absent("b", b"0" * (2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.names() == {"a"}
    assert list((tmp_path / "_job").iterdir()) == []
    assert store.put_if_absent("b", b"0" * (2 << 20))
