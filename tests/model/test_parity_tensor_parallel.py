"""Row 5 of the parity table: models cut over processes against transformers, which is not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.gemma2 import Gemma2
from model.parallel import TensorParallel

from .helpers import config_of, oracle, oracle_logits, random_ids, report
from .ranks import Job, outputs_of_ranks

# Neither number of ranks divides 103 tokens.
ORACLES: dict[str, Any] = {
    "tied": lambda: oracle(qk_scale=3.0),
    "untied, biases": lambda: oracle(tie_word_embeddings=False, attention_bias=True),
    "token classification": lambda: oracle("Gemma2ForTokenClassification"),
}


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(2, id="2 ranks"),
        # Twice as many ranks as KV heads.
        pytest.param(4, id="4 ranks", marks=pytest.mark.slow),
    ],
)
def test_row_5_ranks_compute_what_one_does(size: int, tmp_path: Path, record_property: Any) -> None:
    references = {name: build() for name, build in ORACLES.items()}
    ids = random_ids(40)
    jobs = [
        Job(config_of(reference), dict(reference.state_dict()), ids, [25, 1, 14])
        for reference in references.values()
    ]
    ranks = outputs_of_ranks(jobs, size, tmp_path)
    for i, (name, reference) in enumerate(references.items()):
        want = oracle_logits(reference, ids)
        if name == "token classification":
            assert all(torch.equal(rank[i], ranks[0][i]) for rank in ranks)
            got = ranks[0][i]
        else:
            got = torch.cat([rank[i] for rank in ranks], dim=-1)
        found = float((got - want).abs().max())
        report(record_property, "row 5", f"max |Δ| on {size} ranks, {name}", found)
        assert found < 1e-4
        assert torch.equal(got.argmax(-1), want.argmax(-1))


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
