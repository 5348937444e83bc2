"""Row 5 of the parity table: models cut over processes against transformers', which is not.

With it rows 1, 2, 4, 7, 8 and 9 on ranks: logits and hidden states of texts side by side, in chunks
that cross the window, and both label heads; each computed in every way, see `helpers.Pair`.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.gemma2 import Gemma2
from model.parallel import TensorParallel

from .helpers import Pair, config_of, flat_logits, oracle, random_ids
from .ranks import Job, outputs_of_ranks
from .ways import EXACT, ROUNDED, ROUNDED_FLEX, Way, usable

# Neither number of ranks divides 103 tokens.
MODELS: dict[str, dict[str, Any]] = {
    "tied": {"qk_scale": 3.0},
    "untied, biases": {"tie_word_embeddings": False, "attention_bias": True},
    "sequence classification": {
        "architecture": "Gemma2ForSequenceClassification",
        "num_labels": 24,
    },
    "token classification": {"architecture": "Gemma2ForTokenClassification"},
}
LENGTH = 40


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("size", "ways"),
    [
        pytest.param(2, [*EXACT, *ROUNDED, ROUNDED_FLEX], id="2 ranks"),
        # Twice as many ranks as KV heads.
        pytest.param(4, [EXACT[0], ROUNDED[-1]], id="4 ranks", marks=pytest.mark.slow),
    ],
)
def test_row_5_ranks_compute_what_one_does(
    size: int, ways: list[Way], tmp_path: Path, record_property: Any
) -> None:
    texts = [random_ids(LENGTH, seed=seed) for seed in range(3)]
    cases = [
        (f"row 5, {size} ranks, {name}", Pair(way, **changes))
        for way in ways
        if usable(way)
        for name, changes in MODELS.items()
    ]
    jobs = [
        Job(config_of(pair.exact), dict(pair.rounded.state_dict()), pair.way, texts, [25, 1, 14])
        for _, pair in cases
    ]
    ranks = outputs_of_ranks(jobs, size, tmp_path)
    for (what, pair), outputs in zip(cases, zip(*ranks, strict=True), strict=True):
        states, heads = outputs[0].states, [output.head for output in outputs]
        assert all(torch.equal(output.states[-1], states[-1]) for output in outputs)
        pair.check_states(record_property, what, states, texts)
        if "classification" in what:
            assert all(torch.equal(head, heads[0]) for head in heads)
            heads = heads[:1]
        got = torch.cat(heads, dim=-1)
        if "sequence" in what:
            got = got[LENGTH - 1 :: LENGTH]
        pair.check(record_property, what, got, lambda model: flat_logits(model, texts))
        if pair.way.exact:
            assert torch.equal(got.argmax(-1), flat_logits(pair.exact, texts).argmax(-1))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shards_of_all_ranks_cover_the_checkpoint(size: int) -> None:
    reference = oracle(tie_word_embeddings=False, attention_bias=True)
    config = config_of(reference)
    seen = {name: torch.zeros(tensor.shape) for name, tensor in reference.state_dict().items()}
    for rank in range(size):
        model = Gemma2(config, TensorParallel(rank, size), torch.float32, torch.device("cpu"))
        targets = set()
        for shard in model.shards():
            assert shard.full_shape == seen[shard.name].shape
            part = seen[shard.name][shard.slices]
            assert part.shape == shard.target.shape
            part += 1
            targets.add(shard.target.data_ptr())
        assert len(targets) == len(list(model.shards()))
    for name, count in seen.items():
        copies = 1
        if "layernorm" in name or name == "model.norm.weight" or name.endswith("o_proj.bias"):
            copies = size
        elif "k_proj" in name or "v_proj" in name:
            copies = max(1, size // config.num_key_value_heads)
        assert (count == copies).all(), name
