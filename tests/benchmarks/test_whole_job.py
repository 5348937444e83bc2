import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks import whole_job
from benchmarks.checkpoints import ensure


def run(text: str) -> subprocess.CompletedProcess[str]:
    # Not in this process: it adopts and reaps whatever its descendants leave running.
    command = [sys.executable, whole_job.__file__, *text.split()]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_whole_job_is_measured_to_its_last_row(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    done = run(
        f"--checkpoint {checkpoint} --workload uniform:3:0.1 --ours good bad:nosuch=1 --peers "
        f"--turns 1 --threads 1 --max-other inf --out {out}"
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == [json.loads(line) for line in done.stdout.splitlines()]
    # What fails leaves the others their figures.
    assert done.stderr.count("left out from here on") == 2
    assert done.stderr.endswith("whole_job.py: failed: 2 of 5; see above\n")
    assert [line["job"] for line in lines] == ["engine", "gemmaray run", "first token"]
    bare, job, first = lines
    for line in lines:
        assert 0.0 < line["last_row_s"][0] <= line["exit_s"][0]
        assert line["peak_rss_gib"] > 0.05
    assert bare["ready_s"] < bare["last_row_s"]
    assert first["ready_s"] < first["last_row_s"]
    assert (bare["variant"], job["variant"]) == ("good", "good")
    assert job["ready_s"] == [None]
    assert job["shape"] == bare["shape"] == checkpoint.name


def test_requests_of_different_sizes_are_refused(checkpoint: Path) -> None:
    done = run(f"--checkpoint {checkpoint} --workload sharegpt:3 --peers")
    assert "all its requests must be of one size" in done.stderr
    assert done.returncode == 1


def test_texts_have_exactly_as_many_tokens(tmp_path: Path) -> None:
    checkpoint = ensure("tiny", folder=tmp_path / "tiny")
    texts = whole_job.prompts(checkpoint, 5, 37)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert [len(tokenizer.encode(text).ids) for text in texts] == [37] * 5
    assert len(set(texts)) == 5
