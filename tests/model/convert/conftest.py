from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.helpers import in_bfloat16, oracle


@pytest.fixture(scope="session")
def reference() -> Any:
    return oracle()


@pytest.fixture(scope="session")
def saved_reference(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference as transformers saves it; not to be changed."""
    folder: Path = tmp_path_factory.mktemp("saved") / "reference"
    reference.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def config(saved_reference: Path) -> Path:
    return saved_reference / "config.json"


@pytest.fixture(scope="session")
def rounded(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reference in bfloat16."""
    model = in_bfloat16(reference, tmp_path_factory.mktemp("rounded"))
    assert model.dtype is torch.bfloat16
    return model
