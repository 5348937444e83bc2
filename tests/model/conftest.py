import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models lose more to waiting for threads than they gain, ten times on a busy machine."""
    torch.set_num_threads(1)
