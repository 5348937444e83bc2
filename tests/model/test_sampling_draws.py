"""Draws: frequencies, independence of the batch, greedy choice, log-probabilities, edges."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import ParameterError
from model.params import SamplingParams
from model.sampling import (
    SampledToken,
    SamplingRow,
    check_token_ids,
    child_seed,
    processed_logits,
    start_sampling,
    token_logprobs,
    uniform,
)
from model.sampling.draw import draw_rank, draw_token

from .draws import sample

LAST_UNIFORM = 1 - 2.0**-53


def ids(tokens: list[SampledToken]) -> list[int]:
    return [token.token_id for token in tokens]


def random_logits(rows: int, vocab: int, *, seed: int = 0) -> Tensor:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 4
    return 30 * torch.tanh(logits / 30)


def test_uniform_is_pinned_because_results_of_jobs_depend_on_it() -> None:
    assert uniform(0, 0) == 0.9346019815670126
    assert uniform(0, 1) == 0.5938923037246979
    assert uniform(2**63 - 1, 5) == 0.7061792827476346
    assert [child_seed(7, i) for i in range(3)] == [7, 1081748784977561848, 2332857483647281012]


def test_uniform_is_uniform_over_seeds_and_steps() -> None:
    for numbers in (
        np.array([uniform(seed, 3) for seed in range(20_000)]),
        np.array([uniform(3, step) for step in range(20_000)]),
    ):
        assert ((numbers >= 0) & (numbers < 1)).all()
        counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
        assert chi_square(counts, np.full(100, 0.01)) < critical(99)
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03


def test_children_have_seeds_of_their_own() -> None:
    seeds = {child_seed(parent, index) for parent in range(100) for index in range(100)}
    assert len(seeds) == 100 * 100
    assert all(0 <= seed < 2**63 for seed in seeds)


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    want = p * counts.sum()
    return float(np.sum((counts - want) ** 2 / want))


def critical(degrees: int) -> float:
    """About the 99.99th percentile of the chi-square distribution (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 3.72 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=2.0),
        SamplingParams(temperature=1.5, top_k=12),
        SamplingParams(temperature=1.5, top_p=0.9),
        SamplingParams(temperature=3.0, min_p=0.05),
        SamplingParams(temperature=1.2, top_k=60, top_p=0.95, min_p=0.01, logit_bias={3: 4.0}),
        SamplingParams(temperature=1.0, repetition_penalty=1.3, frequency_penalty=0.4),
    ],
    ids=["plain", "hot", "top_k", "top_p", "min_p", "all", "penalties"],
)
def test_draws_follow_the_processed_distribution(params: SamplingParams) -> None:
    vocab, draws = 150, 20_000
    logits = random_logits(1, vocab, seed=11)
    rows = [
        SamplingRow(params, seed=99, step=step, prompt_ids=[3, 4], output_ids=[5, 5, 6])
        for step in range(draws)
    ]
    tokens = ids(sample(logits.expand(draws, -1), rows))
    p = processed_logits(logits, rows[:1]).softmax(-1)[0].double().numpy()
    counts = np.bincount(tokens, minlength=vocab)
    assert counts[p == 0].sum() == 0
    likely = p * draws >= 5  # the test's usual condition; the others are pooled
    pooled = np.append(counts[likely], counts[~likely].sum())
    pooled_p = np.append(p[likely], p[~likely].sum())
    bins = pooled_p * draws >= 1
    assert chi_square(pooled[bins], pooled_p[bins]) < critical(int(bins.sum()) - 1)


def random_row(rng: random.Random, vocab: int) -> SamplingRow:
    pick = rng.choice
    return SamplingRow(
        SamplingParams(
            temperature=pick([0.0, 0.5, 1.0, 1.0, 3.0]),
            top_k=pick([0, 0, 1, 20, 200, vocab]),
            top_p=pick([1.0, 1.0, 0.5, 0.95, 0.9999]),
            min_p=pick([0.0, 0.0, 0.02]),
            repetition_penalty=pick([1.0, 1.0, 1.3]),
            presence_penalty=pick([0.0, 0.0, 0.5]),
            logit_bias=pick([{}, {}, {7: 3.0}]),
            logprobs=pick([None, 0, 3, 40]),
        ),
        seed=rng.getrandbits(63),
        step=rng.randrange(1000),
        prompt_ids=[rng.randrange(vocab) for _ in range(30)],
        output_ids=[rng.randrange(vocab) for _ in range(10)],
        banned=pick([(), (), (1, 2)]),
    )


@pytest.mark.parametrize("vocab", [50, 4099])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_draws_the_same_alone_and_in_any_batch(vocab: int, dtype: torch.dtype) -> None:
    rng = random.Random(5)
    rows = [random_row(rng, vocab) for _ in range(60)]
    logits = random_logits(60, vocab, seed=1).to(dtype)
    alone = [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]
    assert sample(logits, rows) == alone
    for _ in range(3):
        order = rng.sample(range(60), 40)
        assert sample(logits[order], [rows[i] for i in order]) == [alone[i] for i in order]


def test_chunks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(6)
    rows = [random_row(rng, 300) for _ in range(50)]
    logits = random_logits(50, 300)
    whole = sample(logits, rows)
    monkeypatch.setattr("model.sampling.sampler.CPU_CHUNK", 900)
    assert sample(logits, rows) == whole


def test_the_logits_are_left_as_they_are() -> None:
    rng = random.Random(8)
    logits = random_logits(50, 128)
    before = logits.clone()
    sample(logits, [random_row(rng, 128) for _ in range(50)])
    assert torch.equal(logits, before)


def test_a_seed_and_a_step_decide_the_draw() -> None:
    logits = random_logits(1, 1000) / 4
    params = SamplingParams(temperature=1.0)

    def draws(seed: int) -> list[int]:
        rows = [SamplingRow(params, seed=seed, step=step) for step in range(50)]
        return ids(sample(logits.expand(50, -1), rows))

    assert draws(1) == draws(1)
    assert len(set(draws(1))) > 10
    assert draws(1) != draws(2)


def test_token_ids_may_come_as_arrays() -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=2.0, presence_penalty=1.0)
    logits = random_logits(1, 90)
    as_lists = SamplingRow(params, prompt_ids=[1, 2], output_ids=[3, 3])
    as_arrays = SamplingRow(params, prompt_ids=np.array([1, 2]), output_ids=np.array([3, 3]))
    assert torch.equal(processed_logits(logits, [as_lists]), processed_logits(logits, [as_arrays]))


@pytest.mark.parametrize("u", [0.0, 1e-18, 0.5, LAST_UNIFORM])
def test_weightless_tokens_are_never_drawn(u: float) -> None:
    generator = torch.Generator().manual_seed(2)
    p = torch.rand(400, 64 * 6, generator=generator) ** 20
    p[torch.rand(p.shape, generator=generator) < 0.9] = 0.0
    p[:, 128:256] = 0.0
    p[:, 300] = torch.rand(400, generator=generator) * 1e-30
    numbers = torch.full((400,), u, dtype=torch.float64)
    assert (p.gather(1, draw_token(p, numbers)[:, None]) > 0).all()
    assert (p.gather(1, draw_rank(p.double(), numbers)[:, None]) > 0).all()


def test_the_first_and_last_token_with_weight_are_the_ends() -> None:
    p = torch.zeros(1, 192)
    p[0, 70], p[0, 130] = 0.25, 0.75
    for u, token in ((0.0, 70), (0.2499, 70), (0.25, 130), (LAST_UNIFORM, 130)):
        assert draw_token(p, torch.tensor([u], dtype=torch.float64)).item() == token


def test_greedy_takes_the_lowest_id_of_the_best() -> None:
    logits = torch.zeros(4, 300)
    logits[0, [65, 64, 200]] = 5.0
    logits[1, 299] = 5.0
    logits[2, [63, 250]] = 5.0
    assert ids(sample(logits, [SamplingRow(SamplingParams())] * 4)) == [64, 299, 63, 0]


def test_greedy_obeys_bias_penalties_and_bans() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, -1.0]]).expand(4, -1)
    rows = [
        SamplingRow(SamplingParams(), banned=(0, 1)),
        SamplingRow(SamplingParams(logit_bias={3: 5.0})),
        SamplingRow(SamplingParams(repetition_penalty=2.0), prompt_ids=[0]),
        SamplingRow(SamplingParams(), output_ids=[0], prompt_ids=[0]),
    ]
    assert ids(sample(logits, rows)) == [2, 3, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_the_models_own(dtype: torch.dtype) -> None:
    logits = random_logits(40, 500, seed=4).to(dtype)
    rng = random.Random(9)
    rows = [random_row(rng, 500) for _ in range(40)]
    truth = logits.double().log_softmax(-1)
    for row, token, want in zip(rows, sample(logits, rows), truth, strict=True):
        assert token.logprob == pytest.approx(want[token.token_id].item(), abs=2e-6)
        n = row.params.logprobs or 0
        assert len(token.top) == n
        best = want.sort(descending=True, stable=True).indices[:n].tolist()
        assert [token_id for token_id, _ in token.top] == best
        values = want[best].tolist()
        assert [value for _, value in token.top] == pytest.approx(values, abs=2e-6)


def test_top_logprobs_of_a_flat_row_are_the_lowest_ids() -> None:
    token = sample(torch.zeros(1, 1000), [SamplingRow(SamplingParams(logprobs=5))])[0]
    assert [token_id for token_id, _ in token.top] == [0, 1, 2, 3, 4]
    token = sample(torch.zeros(1, 3), [SamplingRow(SamplingParams(logprobs=5))])[0]
    assert [token_id for token_id, _ in token.top] == [0, 1, 2]


def test_top_logprobs_fall_and_begin_with_the_greedy_token() -> None:
    rows = [SamplingRow(SamplingParams(logprobs=20))] * 10
    for token in sample(random_logits(10, 5000), rows):
        assert token.top[0] == (token.token_id, token.logprob)
        assert all(first[1] >= second[1] for first, second in pairwise(token.top))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(logprobs=3),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5, top_k=3),
        SamplingParams(temperature=0.5, top_p=0.5, min_p=0.1),
    ],
    ids=["greedy", "plain", "top_k", "top_p"],
)
def test_a_row_with_nothing_to_draw_gets_token_0(params: SamplingParams) -> None:
    logits = random_logits(3, 100)
    logits[1] = -torch.inf
    everything = tuple(range(100))
    rows = [
        SamplingRow(params, seed=4),
        SamplingRow(params),
        SamplingRow(params, banned=everything),
    ]
    fine, dead, banned = sample(logits, rows)
    assert fine == sample(logits[:1], rows[:1])[0]
    assert (dead.token_id, dead.logprob) == (0, -torch.inf)
    assert banned.token_id == 0
    assert banned.logprob == pytest.approx(logits[2].log_softmax(-1)[0].item(), abs=1e-6)


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}])
def test_logits_that_are_not_numbers_give_some_token(params: dict[str, float]) -> None:
    row = SamplingRow(SamplingParams.model_validate(params))
    logits = torch.full((1, 70), torch.nan)
    assert 0 <= sample(logits, [row])[0].token_id < 70


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.zeros(0, 10), []) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_logprobs(dtype: torch.dtype) -> None:
    logits = random_logits(70, 333, seed=2).to(dtype)
    truth = logits.double().log_softmax(-1)
    targets = torch.randint(333, (70,), generator=torch.Generator().manual_seed(0))
    want = truth[torch.arange(70), targets].float()
    torch.testing.assert_close(token_logprobs(logits, targets), want, atol=2e-6, rtol=0)
    rows = torch.tensor([3, 3, 3, 69, 0])
    want = truth[rows, targets[:5]].float()
    torch.testing.assert_close(token_logprobs(logits, targets[:5], rows), want, atol=2e-6, rtol=0)


def test_token_logprobs_of_impossible_tokens() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
    logprobs = token_logprobs(logits, torch.tensor([1, 1]))
    assert logprobs.tolist() == [-torch.inf, -torch.inf]
    assert token_logprobs(logits, torch.tensor([0]), torch.tensor([0])).tolist() == [0.0]
    assert token_logprobs(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_ids_outside_the_vocabulary_are_refused_by_name() -> None:
    check_token_ids(SamplingParams(logit_bias={9: 1.0}, stop_token_ids=(9,)), 10)
    with pytest.raises(ParameterError, match=r"logit_bias: there is no token 10; .* 0 to 9"):
        check_token_ids(SamplingParams(logit_bias={10: 1.0}), 10)
    with pytest.raises(ParameterError, match="stop_token_ids"):
        check_token_ids(SamplingParams(stop_token_ids=(3, 10)), 10)


def test_rows_on_the_device_are_drawn_without_a_look_at_the_numbers() -> None:
    settings = [{}, {"temperature": 1.0}, {"temperature": 0.7, "logit_bias": {5: 2.0}}]
    rows = [SamplingRow(SamplingParams.model_validate(s), seed=3, banned=(2,)) for s in settings]
    rows += [SamplingRow(SamplingParams(logprobs=0)), *rows[:2]]
    logits = torch.empty(len(rows), 300, device="meta")  # a shape, and nothing that could be read
    assert all(row.on_device for row in rows)
    assert start_sampling(logits, rows).ids.shape == (len(rows),)
    targets = torch.zeros(9, dtype=torch.int64, device="meta")
    assert token_logprobs(logits, targets, targets).shape == (9,)
    for others in ({"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"logprobs": 2}):
        row = SamplingRow(SamplingParams.model_validate({"temperature": 1.0, **others}))
        assert not row.on_device
        with pytest.raises((RuntimeError, NotImplementedError)):
            start_sampling(logits[:1], [row])
