"""What tells one checkpoint from another."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.identity import identify
from model.weight_files import SINGLE

from .checkpoints import small_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return small_checkpoint(tmp_path / "checkpoint")


def test_the_place_does_not_matter(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "README.md").write_text("unrelated")
    assert identify(copy) == identify(checkpoint)


@pytest.mark.parametrize("row", [0, 50, 99])
def test_sees_other_weights_of_the_same_shape(checkpoint: Path, row: int) -> None:
    before = identify(checkpoint)
    tensors = load_file(checkpoint / SINGLE)
    tensors["model.w"][row] += 1
    save_file(tensors, checkpoint / SINGLE)
    assert identify(checkpoint) != before


def test_sees_the_configs_and_the_shapes(checkpoint: Path) -> None:
    seen = {identify(checkpoint)}
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 1}')
    seen.add(identify(checkpoint))
    (checkpoint / "config.json").write_text("{}")
    seen.add(identify(checkpoint))
    tensors = load_file(checkpoint / SINGLE)
    save_file(tensors | {"model.w": tensors["model.w"].T.contiguous()}, checkpoint / SINGLE)
    seen.add(identify(checkpoint))
    save_file(tensors | {"model.w": tensors["model.w"].bfloat16()}, checkpoint / SINGLE)
    seen.add(identify(checkpoint))
    assert len(seen) == 5


def test_reads_little(checkpoint: Path) -> None:
    """An edit between the windows is not seen: what the docstring says."""
    before = identify(checkpoint)
    tensors = load_file(checkpoint / SINGLE)
    tensors["model.w"][20] += 1
    save_file(tensors, checkpoint / SINGLE)
    assert identify(checkpoint) == before


def test_damaged_weights(checkpoint: Path) -> None:
    (checkpoint / SINGLE).write_bytes((checkpoint / SINGLE).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="can't be read as safetensors"):
        identify(checkpoint)
