from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.config import ModelConfig
from model.errors import EngineDeadError, ParameterError
from model.parallel import (
    TensorParallel,
    allowed_sizes,
    check_size,
    heads_of_rank,
    vocab_of_rank,
)

# The shapes of google/gemma-2-2b.
CONFIG = ModelConfig.from_dict({"model_type": "gemma2"}, source="test")


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_query_heads_find_their_kv_head_on_their_rank(size: int) -> None:
    group = CONFIG.num_attention_heads // CONFIG.num_key_value_heads
    query_heads = []
    for rank in range(size):
        heads = heads_of_rank(CONFIG, rank, size)
        mine = list(range(CONFIG.num_attention_heads))[heads.query]
        query_heads += mine
        # The backend pairs local query head n with local KV head n // (queries / KV heads).
        local_group = heads.num_query // heads.num_kv
        paired = [heads.kv.start + n // local_group for n in range(heads.num_query)]
        assert paired == [n // group for n in mine]
    assert query_heads == list(range(CONFIG.num_attention_heads))


def test_kv_heads_are_held_by_several_ranks_when_there_are_more_ranks() -> None:
    holders = [heads_of_rank(CONFIG, rank, 8).kv.start for rank in range(8)]
    assert holders == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_size_that_does_not_divide_is_refused_with_those_that_do() -> None:
    assert allowed_sizes(CONFIG) == [1, 2, 4, 8]
    with pytest.raises(ParameterError, match=r"tensor_parallel=3 .* 8 query heads.* 1, 2, 4, 8$"):
        heads_of_rank(CONFIG, 0, 3)
    odd = replace(CONFIG, intermediate_size=9217)
    with pytest.raises(ParameterError, match=r"intermediate size 9217; use one of 1$"):
        check_size(odd, 2)


def test_ranks_must_be_a_multiple_of_the_kv_heads_or_the_other_way_round() -> None:
    config = replace(CONFIG, num_attention_heads=12, num_key_value_heads=6)
    assert allowed_sizes(config) == [1, 2, 3, 6, 12]


@pytest.mark.parametrize(("vocab_size", "size"), [(256000, 8), (256002, 4), (103, 2), (5, 4)])
def test_vocabulary_is_cut_into_equal_parts(vocab_size: int, size: int) -> None:
    shares = [vocab_of_rank(vocab_size, rank, size) for rank in range(size)]
    assert len({share.padded for share in shares}) == 1
    rows = [row for share in shares for row in range(vocab_size)[share.rows]]
    assert rows == list(range(vocab_size))
    # Gathered logits are cut to the vocabulary: padding may only be at the end.
    assert all(share.size == share.padded for share in shares if share.rows.stop < vocab_size)


def test_one_rank_needs_no_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("model.parallel.connect")
    tp = TensorParallel.single()
    tp.join(Path("nowhere"), torch.device("cpu"))
    x = torch.randn(2, 3)
    assert tp.all_reduce(x) is x
    assert torch.equal(tp.all_gather(x), x[None])
    tp.abort()
    tp.leave()


def test_a_rank_that_waits_in_vain_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        EngineDeadError, match=r"^rank 0 of 2 could not join .* within 0.5 s"
    ) as info:
        TensorParallel(0, 2).join(tmp_path / "meeting", torch.device("cpu"), 0.5)
    assert "\n" not in str(info.value)
    assert not torch.distributed.is_initialized()
