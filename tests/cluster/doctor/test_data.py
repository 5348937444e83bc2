"""Checkpoints and outputs."""

import json
import shutil
from pathlib import Path

import pytest

from cluster.doctor.data import examine_model, examine_output
from pipelines.s3 import S3Settings
from tests.conftest import Bucket

DEMO = Path(__file__).parents[3] / "examples" / "demo-model" / "causal-lm"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def states(checkpoint: Path) -> dict[str, str]:
    return {item.check: item.state for item in examine_model(str(checkpoint), None)}


def test_a_whole_checkpoint(checkpoint: Path) -> None:
    assert states(checkpoint) == {"model": "ok", "tokenizer": "ok"}


def test_a_broken_download(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert states(checkpoint) == {"model": "problem"}


def test_a_config_that_is_not_gemma_2(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": "llama"}')
    assert states(checkpoint) == {"model": "problem"}


def test_no_folder(tmp_path: Path) -> None:
    assert states(tmp_path / "nothing") == {"model": "problem"}


def test_no_tokenizer(checkpoint: Path) -> None:
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    assert states(checkpoint) == {"model": "ok", "tokenizer": "problem"}


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "vocab_size": 128}))
    assert states(checkpoint)["tokenizer"] == "problem"


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    assert examine_output(str(tmp_path / "a" / "b"), S3Settings()).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    found = examine_output("/proc/nowhere", S3Settings())
    assert found.state == "problem"


def test_a_bucket_with_conditional_writes(s3: Bucket) -> None:
    assert examine_output(s3.url("out"), S3Settings()).state == "ok"
    assert s3.fs.find(s3.bucket) == []


def test_a_bucket_that_is_not_there(s3: Bucket) -> None:
    found = examine_output("s3://no-such-bucket-here/out", S3Settings())
    assert found.state == "problem"
    assert "\n" not in found.text


def test_a_scheme_that_is_not_known() -> None:
    assert examine_output("gs://bucket/out", S3Settings()).state == "problem"
