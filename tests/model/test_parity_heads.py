"""Rows 8 and 9 of the parity table at the model's level: the label heads, computed in every way.

What each way is held to: see `helpers.Pair`. Which position of a prompt the sequence head is
applied to is the engine's matter.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import TaskError
from model.gemma2 import Gemma2
from model.parallel import TensorParallel

from .helpers import Pair, config_of, oracle, oracle_logits, ours, random_ids, report
from .pages import PagedModel, from_state_dict
from .ways import Way, every_way, exact_ways

LABELS: dict[str, Any] = {"id2label": {0: "red", 1: "green", 2: "blue"}}


@exact_ways
@pytest.mark.parametrize(
    "ids",
    [[5, 9, 7], [7, 5, 9, 0, 0], [0, 0, 5, 9, 7], [5, 0, 9, 0, 7], [0, 0, 0], [9], random_ids(40)],
    ids=["plain", "right pad", "left pad", "middle pad", "all pad", "single", "past the window"],
)
def test_row_8_sequence_classification(ids: list[int], way: Way, record_property: Any) -> None:
    pair = Pair(way, "Gemma2ForSequenceClassification", **LABELS)
    rightmost = max((i for i, token in enumerate(ids) if token != 0), default=0)
    got = pair.model.score(pair.paged(num_pages=32).run(ids)[rightmost][None])
    assert got.shape == (1, 3)
    pair.check(record_property, "row 8, alone", got, lambda model: oracle_logits(model, [ids]))


@every_way
def test_row_8_padding_beside_longer_texts(way: Way, record_property: Any) -> None:
    pair = Pair(way, "Gemma2ForSequenceClassification", **LABELS)
    lengths = [3, 12, 7] * 8
    texts = [random_ids(n, seed=seed) for seed, n in enumerate(lengths)]
    padded = [ids + [0] * (12 - len(ids)) for ids in texts]
    hidden = pair.paged(num_pages=128).step(list(enumerate(texts)))
    got = pair.model.score(hidden[torch.tensor(lengths).cumsum(0) - 1])
    pair.check(
        record_property, "row 8, in a batch", got, lambda model: oracle_logits(model, padded)
    )


@every_way
def test_row_9_token_classification(way: Way, record_property: Any) -> None:
    pair = Pair(way, "Gemma2ForTokenClassification", **LABELS)
    assert pair.exact.score.bias.abs().max() > 0
    ids = random_ids(60)
    got = pair.model.score(pair.paged(num_pages=64).run(ids))
    pair.check(record_property, "row 9, every token", got, lambda model: oracle_logits(model, ids))


def test_row_9_old_style_config(record_property: Any) -> None:
    """As files from before transformers 5 spell it."""
    reference = oracle("Gemma2ForTokenClassification", **LABELS)
    old = reference.config.to_dict()
    for key in ("dtype", "layer_types", "rope_parameters", "use_bidirectional_attention"):
        del old[key]
    old |= {
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        "cache_implementation": "hybrid",
        "sliding_window_size": old.pop("sliding_window"),
        "hidden_act": "gelu_pytorch_tanh",
        "id2label": {"0": "red", "1": "green", "2": "blue"},
    }
    model = from_state_dict(ModelConfig.from_dict(old, source="test"), reference.state_dict())
    ids = random_ids(30)
    got = model.score(PagedModel(model).run(ids))
    found = float((got - oracle_logits(reference, ids)).abs().max())
    report(record_property, "row 9", "max |Δ| old-style config", found)
    assert found < 1e-4


def test_scores_of_a_classifier_are_not_capped() -> None:
    reference = oracle("Gemma2ForTokenClassification", **LABELS)
    with torch.no_grad():
        reference.score.weight.mul_(1000)
    model = ours(reference)
    assert model.score(PagedModel(model).run(random_ids(5))).abs().max() > 100


@pytest.mark.parametrize(
    "architecture", ["Gemma2ForSequenceClassification", "Gemma2ForTokenClassification"]
)
def test_a_classifier_has_no_language_model_head(architecture: str) -> None:
    model = ours(oracle(architecture, **LABELS))
    with pytest.raises(TaskError, match="no language-model head"):
        model.logits(torch.zeros(1, 48))
    assert model.ignorable() == {"lm_head.weight"}


def test_a_language_model_has_no_label_head() -> None:
    with pytest.raises(TaskError, match="no classification head"):
        ours(oracle()).score(torch.zeros(1, 48))


def test_only_an_untied_checkpoint_has_a_head_of_its_own() -> None:
    tied, untied = empty(oracle()), empty(oracle(tie_word_embeddings=False))
    assert tied.ignorable() == {"lm_head.weight"}
    assert "lm_head.weight" not in names(tied)
    assert untied.ignorable() == set()
    assert "lm_head.weight" in names(untied)


def test_a_stray_head_in_a_tied_checkpoint_is_not_used() -> None:
    reference = oracle()
    state: dict[str, Tensor] = dict(reference.state_dict())
    state["lm_head.weight"] = torch.full_like(state["model.embed_tokens.weight"], torch.nan)
    model = from_state_dict(ours(reference).config, state)
    assert model.logits(PagedModel(model).run(random_ids(5))).isfinite().all()


def test_weights_take_the_memory_of_the_checkpoint_and_no_more() -> None:
    reference = oracle()
    wanted = sum(p.nbytes for p in reference.parameters())
    assert sum(p.nbytes for p in empty(reference).parameters()) == wanted
    assert ours(reference).weight_bytes == wanted


def empty(reference: Any) -> Gemma2:
    """Make our model with the same config, its parameters not loaded."""
    device = torch.device("cpu")
    return Gemma2(config_of(reference), TensorParallel.single(), torch.float32, device)


def names(model: Any) -> set[str]:
    return {shard.name for shard in model.shards()}
