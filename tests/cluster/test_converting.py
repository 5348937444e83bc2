"""`gemmaray convert` as it is typed: README's commands, what it prints, and errors of one line."""

from pathlib import Path

import pytest

from .conftest import Command
from .readme_commands import REPOSITORY, run, shown

DEMO = REPOSITORY / "examples" / "demo-model" / "causal-lm"


@pytest.mark.slow
def test_readme_original_checkpoints(tmp_path: Path) -> None:
    done = run(shown("Original checkpoints (gemma_pytorch)"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "original" / "pytorch_model.bin.index.json").is_file()
    weights = (tmp_path / "out" / "back" / "model.safetensors").read_bytes()
    assert weights == (DEMO / "model.safetensors").read_bytes()
    assert "original: a Gemma 2 of a size of its own in the layout of gemma-pytorch" in done.stdout
    assert done.stdout.splitlines()[-1] == "libs"


@pytest.mark.slow
def test_readme_flax_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("tensorstore")
    done = run(shown("Flax checkpoints"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "flax" / "manifest.ocdbt").is_file()
    weights = (tmp_path / "out" / "from-flax" / "model.safetensors").read_bytes()
    assert weights == (DEMO / "model.safetensors").read_bytes()
    assert "flax: a Gemma 2 of a size of its own in the layout of flax, bfloat16" in done.stdout


def test_a_user_s_errors_are_one_line(gemmaray: Command, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for arguments, words in [
        ((DEMO, tmp_path / "there", "--to", "flax"), "is there already"),
        ((DEMO, tmp_path / "new"), "in the layout of transformers already"),
        ((tmp_path / "none", tmp_path / "new"), "is no folder here"),
        ((DEMO / "model.safetensors", tmp_path / "new"), "name the folder that it is in"),
        ((DEMO / "tokenizer.json", tmp_path / "new"), "can't be read"),
        ((DEMO, tmp_path / "new", "--max-shard-size", "big"), "--max-shard-size big is no size"),
    ]:
        done = gemmaray("convert", *map(str, arguments))
        assert done.status == 2
        assert words in done.err
        assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_ctrl_c_is_one_line_too(
    gemmaray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.convert.converting.save_single", interrupted)
    done = gemmaray("convert", str(DEMO), str(tmp_path / "new.ckpt"), "--to", "gemma-pytorch")
    assert done.status == 130
    assert done.err == f"gemmaray: interrupted: {tmp_path}/new.ckpt was not written\n"
    assert list(tmp_path.iterdir()) == []
