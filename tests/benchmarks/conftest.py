from pathlib import Path

import pytest

from benchmarks.checkpoints import Shape, write

SMALL = Shape(
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    intermediate=64,
    vocab=4096,
    window=16,
    query_scalar=16,
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write(SMALL, folder)
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    write(SMALL, folder, labels=5)
    return folder
