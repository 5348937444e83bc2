"""Draws from a vocabulary that is cut over ranks: those of the whole one, and little exchanged."""

import random
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.parallel import TensorParallel, vocab_of_rank
from model.params import SamplingParams
from model.sampling import SampledToken, SamplingRow, Vocabulary, token_logprobs

from .draws import sample
from .test_sampling import make_logits, on_an_edge, sampling_rows
from .test_sampling_draws import random_row
from .thread_ranks import on_ranks


def slice_of(logits: Tensor, tp: TensorParallel) -> Tensor:
    return logits[:, vocab_of_rank(logits.shape[1], tp.rank, tp.size).rows]


def sample_on_ranks(
    logits: Tensor, rows: list[SamplingRow], size: int
) -> tuple[list[SampledToken], int]:
    def compute(tp: TensorParallel) -> list[SampledToken]:
        return sample(slice_of(logits, tp), rows, Vocabulary(logits.shape[1], tp))

    results, sent = on_ranks(size, compute)
    assert all(result == results[0] for result in results)
    return results[0], sent


def assert_same(ranks: list[SampledToken], whole: list[SampledToken]) -> None:
    assert [token.token_id for token in ranks] == [token.token_id for token in whole]
    for one, other in zip(ranks, whole, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert [token_id for token_id, _ in one.top] == [token_id for token_id, _ in other.top]
        ours, theirs = ([logprob for _, logprob in token.top] for token in (one, other))
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("vocab", [50, 4099])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_draw_what_one_does(size: int, vocab: int, dtype: torch.dtype) -> None:
    rng = random.Random(size)
    rows = [random_row(rng, vocab) for _ in range(60)]
    logits = make_logits(60, vocab, peak=10.0, seed=size, dtype=dtype)
    found, _ = sample_on_ranks(logits, rows, size)
    assert_same(found, sample(logits, rows))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_row_draws_the_same_on_ranks(data: st.DataObject) -> None:
    vocab = data.draw(st.sampled_from([1, 2, 5, 63, 64, 65, 300, 1000]))
    rows = data.draw(st.lists(sampling_rows(vocab), min_size=1, max_size=4))
    for row in rows:
        row.seed = data.draw(st.integers(0, 2**63 - 1))
    logits = make_logits(
        len(rows),
        vocab,
        peak=data.draw(st.sampled_from([0.0, 10.0, 40.0])),
        seed=data.draw(st.integers(0, 2**31)),
        dtype=torch.float32,
    )
    # Equal scores and columns without any, wherever the ranks' slices begin and end.
    if data.draw(st.booleans()):
        logits = logits.round()
    if data.draw(st.booleans()):
        logits[:, : vocab // 2] = -torch.inf
    assume(not any(on_an_edge(one, row) for one, row in zip(logits, rows, strict=True)))
    found, _ = sample_on_ranks(logits, rows, data.draw(st.sampled_from([2, 3, 4])))
    assert_same(found, sample(logits, rows))


def test_a_row_without_a_finite_score_draws_token_0_on_every_rank() -> None:
    rows = [
        SamplingRow(SamplingParams(temperature=t, **filters), banned=banned)
        for t in (0.0, 1.0)
        for filters in ({}, {"top_k": 3}, {"top_p": 0.5})
        for banned in ((), tuple(range(10)))
    ]
    logits = torch.full((len(rows), 10), -torch.inf)
    found, _ = sample_on_ranks(logits, rows, 2)
    assert [token.token_id for token in found] == [0] * len(rows)
    assert {token.logprob for token in found} == {-torch.inf}
    logits[:, 3] = 1.0
    found, _ = sample_on_ranks(logits, rows, 2)
    assert_same(found, sample(logits, rows))


@pytest.mark.parametrize(
    ("params", "most"),
    [
        ({}, 3),
        ({"temperature": 1.0}, 8),
        ({"temperature": 0.7, "logit_bias": {5: 1.0}}, 8),
        ({"temperature": 1.0, "top_k": 20}, 3 + 2 * 64 + 1),
        ({"temperature": 1.0, "top_p": 0.9}, 3 + 2 * 64 + 4),
        ({"temperature": 1.0, "min_p": 0.1}, 3 + 2 * 64 + 4),
        ({"logprobs": 20}, 3 + 2 * 40),
    ],
)
def test_what_a_row_exchanges_does_not_grow_with_the_vocabulary(
    params: dict[str, Any], most: int
) -> None:
    rows = [SamplingRow(SamplingParams(**params), seed=seed) for seed in range(8)]
    for vocab in (5_000, 50_000):
        logits = make_logits(8, vocab, peak=40.0, seed=0, dtype=torch.float32)
        _, sent = sample_on_ranks(logits, rows, 2)
        assert sent <= most * len(rows)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("vocab", [1, 50, 1000, 4099])
@pytest.mark.parametrize("rounded", [False, True])
def test_rows_that_keep_too_much_are_drawn_by_bisection(
    size: int, vocab: int, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.sampling.filters.MOST_EXCHANGED", 0)
    rng = random.Random(size)
    rows = [random_row(rng, vocab) for _ in range(100)]
    logits = make_logits(100, vocab, peak=5.0, seed=size, dtype=torch.float32)
    if rounded:  # many equals, also at the edge of top-p
        logits = logits.round()
    found, _ = sample_on_ranks(logits, rows, size)
    assert_same(found, sample(logits, rows))


def test_a_flat_row_does_not_exchange_its_vocabulary() -> None:
    rows = [SamplingRow(SamplingParams(temperature=5.0, top_p=0.99), seed=seed) for seed in (1, 2)]
    logits = make_logits(2, 200_000, peak=0.0, seed=1, dtype=torch.float32)
    found, sent = sample_on_ranks(logits, rows, 2)
    assert_same(found, sample(logits, rows))
    assert sent < 2 * 12_000  # 64, 512 and 4096 candidates, then a few numbers for each bit


@pytest.mark.parametrize("size", [2, 4])
def test_logprobs_of_tokens_on_ranks(size: int) -> None:
    logits = make_logits(6, 103, peak=10.0, seed=3, dtype=torch.float32)
    rows, targets = torch.tensor([0, 5, 5, 2, 2, 2]), torch.tensor([0, 102, 51, 52, 25, 26])

    def compute(tp: TensorParallel) -> Tensor:
        mine, vocabulary = slice_of(logits, tp), Vocabulary(103, tp)
        return token_logprobs(mine, targets, rows, vocabulary)

    results, _ = on_ranks(size, compute)
    for result in results:
        torch.testing.assert_close(result, token_logprobs(logits, targets, rows), atol=1e-6, rtol=0)
        assert torch.equal(result, results[0])
