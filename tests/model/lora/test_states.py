"""Adapters where prompts are computed in windows, or only up to a layer."""

from pathlib import Path

import numpy as np
import pytest

from model import Engine, LongTexts
from tests.model.helpers import random_ids

from .adapters import base, save_adapter
from .conftest import MakeEngine

STRIDE = LongTexts("stride", 6)
PROMPTS = [random_ids(n, seed=n) for n in (60, 5, 33, 60)]
NAMES = ["one", None, "one", None]


@pytest.fixture
def engines(make: MakeEngine, tmp_path: Path) -> dict[str | None, Engine]:
    """What is asked, and by its adapter's name an engine that computes the same without choice."""
    reference = base()
    reference.save_pretrained(tmp_path / "base")
    save_adapter(reference, tmp_path / "adapter")
    folder = str(tmp_path / "adapter")
    return {
        "asked": make(tmp_path / "base", adapters={"one": folder}, max_model_len=20),
        "one": make(tmp_path / "base", adapter=folder, max_model_len=20),
        None: make(tmp_path / "base", max_model_len=20),
    }


@pytest.mark.parametrize("layer", [-1, 1, 2])
def test_vectors_of_windows_are_those_of_the_merged_model(
    engines: dict[str | None, Engine], layer: int
) -> None:
    found = engines["asked"].embed(
        PROMPTS, pooling="mean", normalize=False, layer=layer, long_texts=STRIDE, adapter=NAMES
    )
    wanted = [
        engines[name].embed(
            [prompt], pooling="mean", normalize=False, layer=layer, long_texts=STRIDE
        )[0]
        for prompt, name in zip(PROMPTS, NAMES, strict=True)
    ]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.embedding, theirs.embedding, atol=1e-4)
    assert np.abs(np.subtract(found[0].embedding, found[3].embedding)).max() > 1e-3


def test_states_of_tokens_are_those_of_the_merged_model(
    engines: dict[str | None, Engine],
) -> None:
    prompts = [prompt[:20] for prompt in PROMPTS]
    found = engines["asked"].hidden_states(prompts, layer=2, adapter=NAMES)
    for ours, prompt, name in zip(found, prompts, NAMES, strict=True):
        (theirs,) = engines[name].hidden_states([prompt], layer=2)
        np.testing.assert_allclose(ours.hidden_states, theirs.hidden_states, atol=1e-4)
