import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from .checkpoints import Tensors, build, tied_weights
from .ways import Way, run_flex_as_written


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models lose more to waiting for threads than they gain, ten times on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch run FlexAttention as it is; undone after the test."""
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", False)
    run_flex_as_written()


@pytest.fixture
def way(request: pytest.FixtureRequest, uncompiled: None) -> Way:
    """A way to compute, for tests that are parametrized by `ways.every_way` and the like."""
    parameter: Way = request.param
    return parameter


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """A sharded checkpoint, and its tensors; not to be changed."""
    folder = tmp_path_factory.mktemp("sharded")
    model = build()
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder, tied_weights(model)


@pytest.fixture
def sharded(saved: tuple[Path, Tensors], tmp_path: Path) -> tuple[Path, Tensors]:
    """The same, to be changed."""
    return shutil.copytree(saved[0], tmp_path / "sharded"), saved[1]
