"""Damaged Parquet files end as a refusal, as rows with errors, or as the right rows."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .data import ROOT
from .mutants import ROWS, WRITTEN, Ending, base, expected, read

SEED = 20261122
# For the slowest of them; all take a few milliseconds.
TIMEOUT_S = 20
BATCH = 100


def endings(folder: Path, first: int, last: int) -> list[Ending]:
    """Read damaged files in a process of their own; what ends it is what the next file did."""
    found: list[Ending] = []
    while (at := first + len(found)) < last:
        stop = min(at + BATCH, last)
        command = [sys.executable, "-m", "tests.pipelines.mutants", folder, SEED, at, stop]
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            out, err = process.communicate(timeout=TIMEOUT_S + BATCH / 5)
            why = f"ended its process ({process.returncode}): {err[-500:]}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            why = "took too long"
        found += [Ending(**json.loads(line)) for line in out.splitlines()]
        if first + len(found) < stop:
            found.append(Ending(first + len(found), "", why))
    return found


def test_damaged_files_never_crash_hang_or_give_other_rows(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    count = pytestconfig.getoption("--mutations", default=200)
    found = endings(tmp_path, 0, count)
    assert [ending.number for ending in found] == list(range(count))
    print(Counter(ending.ended if ending.faults == 0 else "error rows" for ending in found))
    bad = [e for e in found if e.ended not in {"refused", "rows"} or e.wrong]
    assert not bad, bad[:10]
    # The damage was such that each of the three ways was taken.
    assert any(ending.ended == "refused" for ending in found)
    assert any(ending.faults for ending in found)
    assert any(ending.ended == "rows" and not ending.faults for ending in found)


@pytest.mark.parametrize("number", range(len(WRITTEN)))
def test_the_files_are_good_before_they_are_damaged(tmp_path: Path, number: int) -> None:
    good = base(number)
    assert len(good.bodies) >= 6
    path = tmp_path / "a.parquet"
    path.write_bytes(good.data)
    table, faulty = read(path)
    assert table.to_pylist() == expected().to_pylist()
    assert faulty == [False] * ROWS
