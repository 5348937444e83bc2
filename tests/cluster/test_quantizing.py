"""`gemmaray quantize`, `--quantization` and what README shows of them."""

from pathlib import Path

import pytest

from model.config import ModelConfig
from tests.pipelines.data import CAUSAL_LM

from .conftest import Command
from .readme_commands import run, shown


def test_quantize_says_what_it_wrote(gemmaray: Command, tmp_path: Path) -> None:
    target = tmp_path / "q"
    finished = gemmaray("quantize", str(CAUSAL_LM), str(target), "--quantization", "bnb-int8")
    assert (finished.status, finished.err) == (0, "")
    words = " ".join(finished.out.split())
    assert words == f"{target}: bnb-int8, 3.4 MB of weights in 1 file, instead of 5.1 MB"
    assert ModelConfig.from_folder(target).quantization == "bnb-int8"
    readable = (target / "config.json").stat().st_mode
    assert {path.stat().st_mode for path in target.iterdir()} == {readable}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            (str(CAUSAL_LM), ".", "--quantization", "int8"),
            "is there already; name another",
        ),
        (("nowhere", "q", "--quantization", "int8"), "'nowhere' is no folder here"),
        ((str(CAUSAL_LM), "q", "--quantization", "int3"), "'int3' is not one of 'int8', 'int4'"),
        ((str(CAUSAL_LM), "q"), "Missing option '--quantization'"),
    ],
)
def test_what_can_not_be_quantized_is_refused(
    gemmaray: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = gemmaray("quantize", *arguments)
    assert finished.status == 2
    assert told in " ".join(finished.err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("row", ["8-bit and 4-bit weights", "Quantized checkpoints"])
def test_the_readme_shows_a_command_that_works(tmp_path: Path, row: str) -> None:
    finished = run(shown(row), tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "libs"
    assert "1 prompt" in finished.stderr
    if row == "Quantized checkpoints":
        assert ModelConfig.from_folder(tmp_path / "out" / "nf4").quantization == "bnb-nf4"
