"""Whole jobs on inputs that are more than one plain Parquet file."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import InputError, PlanMismatch, run_job
from pipelines.locations import filesystem
from pipelines.s3 import S3Settings
from tests.conftest import Bucket

from .data import spec, write

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ONE = [{"generate": {"max_tokens": 2}}]
QUESTION = "Name the section of this Debian package.\n"


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


def test_json_lines_in_partitions_and_what_is_bad_about_them(tmp_path: Path) -> None:
    for day in (1, 2):
        path = tmp_path / "in" / f"day={day}" / "a.jsonl"
        path.parent.mkdir(parents=True)
        lines = [json.dumps({"text": f"package-{i}: tool", "n": i}) for i in range(5)]
        path.write_text("\n".join([*lines, "nonsense"]))
    job = spec(
        input=str(tmp_path / "in"),
        output=str(tmp_path / "out"),
        prompt=QUESTION + "{day}: {text}",
        keep=["day", "n"],
        tasks=ONE,
        unit_rows=4,
    )
    report = run_job(job)
    assert (report.rows_done, report.rows_failed) == (12, 2)
    found = rows(tmp_path / "out")
    assert [(row["day"], row["source_row"]) for row in found] == [
        (day, row) for day in (1, 2) for row in range(6)
    ]
    assert [row["n"] for row in found] == [0, 1, 2, 3, 4, None] * 2
    assert [row["error"] is None for row in found] == [True, True, True, True, True, False] * 2
    assert "the line is not valid JSON" in found[5]["error"]
    assert run_job(job).rows_resumed == 12


def test_batch_requests_that_ask_for_something_else_are_errors(tmp_path: Path) -> None:
    def request(number: int, **body: Any) -> str:
        content = f"{QUESTION}package-{number}: tool"
        body = {"messages": [{"role": "user", "content": content}], **body}
        line = {"custom_id": f"r{number}", "method": "POST", "body": body}
        return json.dumps(line | {"url": "/v1/chat/completions"})

    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([request(0), request(1, max_tokens=2), request(2, temperature=1)]))
    job = spec(
        input=str(path), output=str(tmp_path / "out"), prompt=None, messages="messages", tasks=ONE
    )
    assert run_job(job).rows_failed == 1
    found = rows(tmp_path / "out")
    assert [row["custom_id"] for row in found] == ["r0", "r1", "r2"]
    assert [row["generated_text"] is None for row in found] == [False, False, True]
    assert "body.temperature is 1, and 0.0 in the job" in found[2]["error"]


def test_quarantined_files_are_named_and_may_not_come_back(tmp_path: Path) -> None:
    good = write(tmp_path / "in" / "a.parquet", {"text": ["package-1: tool"]}).read_bytes()
    bad = tmp_path / "in" / "b.parquet"
    bad.write_bytes(good[:-9])
    values = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "tasks": ONE}
    with pytest.raises(InputError, match="1 of 2 input files can't be used"):
        run_job(spec(**values))
    job = spec(**values, on_bad_file="quarantine")
    report = run_job(job)
    assert (report.rows_done, report.rows_failed) == (1, 0)
    (left_out,) = report.quarantined
    assert (left_out.name, left_out.reason) == ("b.parquet", "is no Parquet file, or cut off")
    (entry,) = json.loads((tmp_path / "out" / "_job" / "quarantine.json").read_text())
    assert entry["path"] == str(bad)
    assert run_job(job).quarantined == report.quarantined
    bad.write_bytes(good)
    with pytest.raises(
        PlanMismatch, match=r"input b\.parquet: it was quarantined since it is no P"
    ):
        run_job(job)


@pytest.fixture
def other_endpoint() -> Iterator[str]:
    """A server that no environment leads to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_s3_settings_reach_the_workers(s3: Bucket, other_endpoint: str, tmp_path: Path) -> None:
    settings = S3Settings(endpoint=other_endpoint, region="us-east-1")
    fs = filesystem("s3", S3Settings(endpoint=other_endpoint))
    fs.mkdir(s3.bucket)
    fs.put(str(write(tmp_path / "a.parquet", {"text": ["a: b"]})), s3.url("in/a.parquet"))
    job = spec(input=s3.url("in"), output=s3.url("out"), tasks=ONE, s3=settings.model_dump())
    assert run_job(job).rows_done == 1
    assert fs.exists(s3.url("out/_SUCCESS"))
    assert not s3.fs.exists(s3.url("out"))
