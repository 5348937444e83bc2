"""The command as a user runs it: a Ray of its own, a real job, and a tidy terminal."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMAND = Path(sys.executable).with_name("gemmaray")
ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_runs_on_a_ray_of_its_own_and_nothing_else_is_printed(tmp_path: Path) -> None:
    texts = ["libfoo-dev - headers of foo", "", "bar - a game"]
    pq.write_table(pa.table({"id": [1, 2, 3], "text": texts}), tmp_path / "in.parquet")
    finished = subprocess.run(
        [
            COMMAND,
            *("generate", "in.parquet", "out", "--prompt-column", "text", "--keep", "id"),
            *("--model", ROOT / "examples" / "demo-model" / "causal-lm", "--max-tokens", "4"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    first, *lines = finished.stderr.splitlines()
    assert first == "starting Ray on this machine"
    assert [line for line in lines if not re.match(r"[0-3]/3 rows \| ", line)] == []
    assert finished.stdout.startswith("rows     3 rows, 1 error\n")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert [row["error"] for row in rows] == [None, "column 'text' is empty", None]
    assert [row["generated_text"] is None for row in rows] == [False, True, False]


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_gets_sigterm_says_how_to_go_on_and_goes_on(tmp_path: Path) -> None:
    count = 600
    texts = [f"lib{n} - a library" for n in range(count)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    command = [
        *(COMMAND, "generate", "in.parquet", "out", "--prompt-column", "text", "--unit-rows", "8"),
        *("--model", ROOT / "examples" / "demo-model" / "causal-lm", "--max-tokens", "32"),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*.parquet")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    last = errors.splitlines()[-1]
    assert re.match(rf"gemmaray: interrupted with \d+ of {count} rows committed to ", last)
    assert last.endswith("run the same job again to go on from there")
    assert "Traceback" not in errors
    # What a replica was writing when it was ended lies aside, where no reader looks.
    assert {path.parent for path in tmp_path.rglob("*.tmp")} <= {tmp_path / "out" / "_job"}

    finished = subprocess.run(command, cwd=tmp_path, timeout=120, check=False)
    assert finished.returncode == 0
    assert pq.read_table(tmp_path / "out")["source_row"].to_pylist() == list(range(count))
    assert not list((tmp_path / "out" / "_job" / "attempts").iterdir())
