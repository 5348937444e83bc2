"""What is drawn from: processed scores against transformers' processors and its `generate`."""

import math
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.logits_process import SequenceBiasLogitsProcessor

from model.params import SamplingParams
from model.sampling import SamplingRow, processed_logits
from model.sampling.blocks import argmax, ranked
from tests.model import helpers

TOLERANCE = 1e-5


def make_logits(rows: int, vocab: int, *, peak: float, seed: int, dtype: torch.dtype) -> Tensor:
    """Softcapped logits: `peak` is the height of a dozen likely tokens above a broad tail."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 2
    likely = torch.randint(vocab, (rows, 12), generator=generator)
    logits.scatter_add_(1, likely, torch.rand(rows, 12, generator=generator) * peak)
    return (30 * torch.tanh(logits / 30)).to(dtype)


def processors(row: SamplingRow) -> LogitsProcessorList:
    """Chain transformers' processors in the order of `_get_logits_processor`."""
    p = row.params
    chain = LogitsProcessorList()
    if p.logit_bias:
        bias: list[list[list[int] | float]] = [[[i], value] for i, value in p.logit_bias.items()]
        chain.append(SequenceBiasLogitsProcessor(bias))
    if p.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
    if row.banned:
        chain.append(
            MinNewTokensLengthLogitsProcessor(len(row.prompt_ids), p.min_tokens, [*row.banned])
        )
    if p.greedy:
        return chain
    chain.append(TemperatureLogitsWarper(p.temperature))
    if p.top_k:
        chain.append(TopKLogitsWarper(p.top_k))
    if p.top_p < 1.0:
        chain.append(TopPLogitsWarper(p.top_p))
    if p.min_p:
        chain.append(MinPLogitsWarper(p.min_p))
    return chain


def expected(logits: Tensor, row: SamplingRow) -> Tensor:
    ids = torch.LongTensor([[*row.prompt_ids, *row.output_ids]])
    # Over more than a few tokens torch.sort is not stable unless it is told to be, and which of
    # equal tokens transformers drops is then up to the machine.
    with mock.patch("torch.sort", partial(torch.sort, stable=True)):
        return processors(row)(ids, logits.float()[None])[0].softmax(-1)


def on_an_edge(logits: Tensor, row: SamplingRow) -> bool:
    """Whether a token's fate hangs on float32 rounding, so that either answer is right."""
    if row.params.greedy:
        return False
    plain = row.params.model_copy(update={"top_p": 1.0, "min_p": 0.0})
    p = expected(logits, SamplingRow(plain, 0, 0, row.prompt_ids, row.output_ids, row.banned))
    ordered = p.double().sort().values
    tail = ordered.cumsum(0)
    near_p = (tail - (1 - row.params.top_p)).abs() < 1e-6
    near_min_p = (ordered / ordered[-1] - row.params.min_p).abs() < 1e-6
    return bool((ordered > TOLERANCE / 4)[near_p | near_min_p].any())


def largest_difference(logits: Tensor, rows: list[SamplingRow]) -> float:
    ours = processed_logits(logits, rows).softmax(-1)
    theirs = torch.stack([expected(one, row) for one, row in zip(logits, rows, strict=True)])
    return float((ours - theirs).abs().max())


@st.composite
def sampling_rows(draw: st.DrawFn, vocab: int) -> SamplingRow:
    ids = st.integers(0, vocab - 1)
    output = draw(st.lists(ids, max_size=20))
    banned = draw(st.lists(ids, max_size=3, unique=True)) if vocab > 3 else []
    return SamplingRow(
        SamplingParams(
            temperature=draw(st.just(0.0) | st.just(1.0) | st.floats(0.05, 5.0)),
            top_k=draw(st.just(0) | st.integers(1, 2 * vocab)),
            top_p=draw(st.just(1.0) | st.floats(1e-3, 1.0)),
            min_p=draw(st.just(0.0) | st.floats(0.0, 1.0)),
            repetition_penalty=draw(st.just(1.0) | st.floats(0.5, 3.0)),
            logit_bias=draw(st.dictionaries(ids, st.floats(-100.0, 100.0), max_size=3)),
            max_tokens=200,
            min_tokens=100,
        ),
        prompt_ids=draw(st.lists(ids, min_size=1, max_size=20)),
        output_ids=output,
        banned=tuple(banned),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_processed_distributions_equal_those_of_transformers(data: st.DataObject) -> None:
    vocab = data.draw(st.sampled_from([1, 2, 63, 64, 65, 300, 1000]))
    rows = data.draw(st.lists(sampling_rows(vocab), min_size=1, max_size=5))
    logits = make_logits(
        len(rows),
        vocab,
        peak=data.draw(st.sampled_from([0.0, 10.0, 40.0])),
        seed=data.draw(st.integers(0, 2**31)),
        dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16])),
    )
    assume(not any(on_an_edge(one, row) for one, row in zip(logits, rows, strict=True)))
    assert largest_difference(logits, rows) < TOLERANCE


SETTINGS = [
    SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for temperature in (0.3, 1.0, 2.5)
    for top_k in (0, 1, 50, 700)
    for top_p in (0.2, 0.9, 0.999, 1.0)
    for min_p in (0.0, 0.05)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_processed_distributions_over_a_large_vocabulary(dtype: torch.dtype) -> None:
    # Some rows need a handful of candidates, which are sought in blocks from 32768 tokens on; some
    # flat ones need nearly all tokens.
    differences = []
    for peak in (0.0, 8.0, 25.0):
        logits = make_logits(len(SETTINGS), 33_000, peak=peak, seed=7, dtype=dtype)
        rows = [SamplingRow(params) for params in SETTINGS]
        sound = [i for i, row in enumerate(rows) if not on_an_edge(logits[i], row)]
        assert len(sound) > 0.9 * len(rows)
        differences.append(largest_difference(logits[sound], [rows[i] for i in sound]))
    print(f"sampling distributions ({dtype}): max |Δp| = {max(differences):.1e}")
    assert max(differences) < TOLERANCE


def test_order_of_processing_is_that_of_generate() -> None:
    model = helpers.oracle()
    vocab = model.config.vocab_size
    prompt, banned = [2, 17, 5, 5, 40], (1, 7)
    bias = {5: 2.5, 17: -1.5, 40: 3.0, 8: 1.25}
    torch.manual_seed(3)
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=True,
        temperature=0.4,
        top_k=vocab // 2,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.7,
        sequence_bias={(token_id,): value for token_id, value in bias.items()},
        min_new_tokens=8,
        max_new_tokens=8,
        eos_token_id=[*banned],
        pad_token_id=0,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    params = SamplingParams(
        temperature=0.4,
        top_k=vocab // 2,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.7,
        logit_bias=bias,
    )
    answer = out.sequences[0, len(prompt) :].tolist()
    rows = [
        SamplingRow(params, prompt_ids=prompt, output_ids=answer[:step], banned=banned)
        for step in range(len(answer))
    ]
    ours = processed_logits(torch.cat(out.logits), rows).softmax(-1)
    assert float((ours - torch.cat(out.scores).softmax(-1)).abs().max()) < TOLERANCE


def test_presence_and_frequency_penalties_count_generated_tokens() -> None:
    logits = make_logits(2, 100, peak=10.0, seed=1, dtype=torch.float32)
    both = SamplingParams(presence_penalty=0.7, frequency_penalty=-0.3)
    on_top = SamplingParams(repetition_penalty=1.5, presence_penalty=0.5)
    rows = [
        SamplingRow(both, prompt_ids=[9, 9], output_ids=[3, 4, 3, 3]),
        SamplingRow(on_top, prompt_ids=[9], output_ids=[3]),
    ]
    want = logits.clone()
    want[0, 3] -= 0.7 - 0.3 * 3
    want[0, 4] -= 0.7 - 0.3
    for token_id in (9, 3):
        seen = want[1, token_id]
        want[1, token_id] = seen * 1.5 if seen < 0 else seen / 1.5
    want[1, 3] -= 0.5
    torch.testing.assert_close(processed_logits(logits, rows), want)


def test_ids_outside_the_vocabulary_have_no_effect() -> None:
    logits = make_logits(2, 70, peak=10.0, seed=1, dtype=torch.float32)
    params = SamplingParams(
        logit_bias={70: 5.0, 127: 5.0, 128: 5.0},
        repetition_penalty=2.0,
        presence_penalty=1.0,
    )
    outside = [70, 100, 10_000]
    row = SamplingRow(params, prompt_ids=outside, output_ids=outside, banned=(70, 128))
    assert torch.equal(processed_logits(logits, [row, row]), logits)


def kept(logits: list[float], **params: float) -> list[int]:
    row = SamplingRow(SamplingParams.model_validate({"temperature": 1.0, **params}))
    scores = processed_logits(torch.tensor([logits]), [row])[0]
    return torch.nonzero(scores > -torch.inf)[:, 0].tolist()


def test_top_k_keeps_every_token_equal_to_the_kth() -> None:
    assert kept([1.0, 3.0, 2.0, 2.0, 2.0, 0.0], top_k=2) == [1, 2, 3, 4]
    assert kept([0.0] * 500, top_k=3) == [*range(500)]


def test_top_p_counts_every_token_that_top_k_keeps() -> None:
    # 499 tokens equal the second one, more than are looked at first: together they weigh 500 and
    # the first e**3 = 20, so that top_p wants 84 of them beside it.
    assert kept([3.0] + [0.0] * 500, top_k=2, top_p=0.2) == [0, *range(417, 501)]


def test_top_p_keeps_the_highest_ids_of_equal_tokens() -> None:
    assert kept([0.0] * 8, top_p=0.5) == [4, 5, 6, 7]
    assert kept([0.0] * 512, top_p=0.25) == [*range(384, 512)]
    assert kept([1.0, 0.0, 1.0, 1.0], top_p=0.4) == [2, 3]


def test_the_likeliest_token_always_stays() -> None:
    assert kept([0.0, 5.0, 1.0], top_p=1e-12) == [1]
    assert kept([0.0, 5.0, 5.0], min_p=1.0) == [1, 2]
    assert kept([0.0, 5.0, 1.0], top_k=1, top_p=1e-12, min_p=1.0) == [1]


def test_a_vocabulary_of_one_and_more_candidates_than_tokens() -> None:
    assert kept([4.0], top_k=10, top_p=0.5, min_p=0.5) == [0]
    assert kept([4.0, 3.0, 2.0], top_k=1000) == [0, 1, 2]


def test_tokens_at_minus_infinity_are_never_kept() -> None:
    logits = [-math.inf] * 200 + [1.0, 2.0]
    for params in ({}, {"top_k": 5}, {"top_p": 0.9999}, {"min_p": 0.01}):
        assert kept(logits, **params) == [200, 201]


@pytest.mark.parametrize("temperature", [1e-4, 1e-12, 1e-300])
def test_the_lowest_temperatures_make_no_nan(temperature: float) -> None:
    logits = torch.tensor([[30.0, -30.0, 29.5, 30.0]])
    for params in (
        SamplingParams(temperature=temperature),
        SamplingParams(temperature=temperature, top_p=0.9, top_k=3, min_p=0.1),
    ):
        p = processed_logits(logits, [SamplingRow(params)]).softmax(-1)
        assert p[0].tolist() == [0.5, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lowest_id_first", [True, False])
def test_ranks_found_in_blocks_are_those_of_a_sort(
    dtype: torch.dtype, lowest_id_first: bool
) -> None:
    x = make_logits(5, 64 * 600, peak=9.0, seed=3, dtype=dtype).float()
    columns, values = ranked(x, 64, lowest_id_first=lowest_id_first)
    in_order = x if lowest_id_first else x.flip(1)
    want = in_order.sort(stable=True, dim=1, descending=True)
    want_columns = want.indices if lowest_id_first else x.shape[1] - 1 - want.indices
    assert torch.equal(values, want.values[:, :64])
    certain = values > values[:, -1:]
    assert torch.equal(columns[certain], want_columns[:, :64][certain])
    assert torch.equal(x.gather(1, columns), values)
    assert torch.equal(argmax(x), x.argmax(1))


@pytest.mark.gpu
def test_cuda_and_cpu_keep_the_same_distributions() -> None:
    logits = make_logits(len(SETTINGS), 20_000, peak=8.0, seed=7, dtype=torch.float32)
    rows = [SamplingRow(params) for params in SETTINGS]
    on_cpu = processed_logits(logits, rows).softmax(-1)
    on_cuda = processed_logits(logits.cuda(), rows).softmax(-1).cpu()
    assert float((on_cuda - on_cpu).abs().max()) < TOLERANCE
