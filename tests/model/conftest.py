import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

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
