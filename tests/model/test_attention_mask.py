"""Masks as attention itself has them, held to those that transformers makes."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from model.attention_mask import MOST_TOKENS, AttentionMask, attention_masks
from model.config import ModelConfig
from model.errors import ParameterError

WINDOW = 5
MAKERS = {
    "full_attention": create_causal_mask,
    "sliding_attention": create_sliding_window_causal_mask,
}


def config(**changes: Any) -> ModelConfig:
    values = {"model_type": "gemma2", "sliding_window": WINDOW, "num_hidden_layers": 4} | changes
    return ModelConfig.from_dict(values, source="config.json")


def theirs(kind: str, tokens: int, window: int) -> np.ndarray[Any, Any]:
    settings = Gemma2Config(sliding_window=window, attn_implementation="eager")
    made = MAKERS[kind](settings, torch.zeros(1, tokens, 4), torch.ones(1, tokens), None)
    assert isinstance(made, torch.Tensor)
    return (made[0, 0] == 0).numpy()


# 127 to 130: the reference backend computes 128 queries at a time.
@pytest.mark.parametrize("tokens", [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 17, 127, 128, 129, 130])
@pytest.mark.parametrize("window", [1, 2, 4, 5, 6, 126, 128, 129])
def test_masks_are_those_of_transformers(tokens: int, window: int) -> None:
    full, sliding = attention_masks(config(sliding_window=window), tokens)
    assert (full.window, sliding.window) == (None, window)
    for mask in (full, sliding):
        np.testing.assert_array_equal(mask.sees, theirs(mask.kind, tokens, window))


@pytest.mark.parametrize("window", [1, WINDOW - 1, WINDOW])
def test_a_smaller_window_is_shown_of_sliding_layers_alone(window: int) -> None:
    full, sliding = attention_masks(config(), 9, window)
    assert (full.window, sliding.window) == (None, window)
    np.testing.assert_array_equal(sliding.sees, theirs("sliding_attention", 9, window))
    assert full.sees[-1].all()


def test_layers_are_named_by_what_they_see() -> None:
    full, sliding = attention_masks(config(), 3)
    assert (sliding.layers, full.layers) == ((0, 2), (1, 3))
    kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    full, sliding = attention_masks(config(layer_types=kinds), 3)
    assert (full.layers, sliding.layers) == ((0, 2, 3), (1,))


def test_a_model_without_sliding_layers_has_one_mask() -> None:
    only = config(layer_types=["full_attention"] * 4)
    (mask,) = attention_masks(only, 3)
    assert mask.kind == "full_attention"
    with pytest.raises(ParameterError, match="no sliding layers"):
        attention_masks(only, 3, 2)


@pytest.mark.parametrize("window", [-1, 0, WINDOW + 1])
def test_a_window_that_the_model_can_not_have_is_refused(window: int) -> None:
    with pytest.raises(ParameterError, match=f"window is {WINDOW} tokens"):
        attention_masks(config(), 3, window)


def test_texts_past_what_can_be_looked_at_are_refused() -> None:
    with pytest.raises(ParameterError, match="1,025 tokens, and masks are shown of up to 1,024"):
        attention_masks(config(), MOST_TOKENS + 1)


def test_runs_are_what_a_row_sees() -> None:
    sees = np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], dtype=bool)
    mask = AttentionMask("full_attention", (0,), None, sees)
    assert [list(mask.runs(row)) for row in range(3)] == [[(0, 1)], [(1, 3), (4, 5)], []]
