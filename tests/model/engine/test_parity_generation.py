"""Rows 3, 4 and 5 of the parity table: greedy tokens against transformers' eager generate."""

import random

import pytest
import torch

from model import SamplingParams
from tests.model.helpers import oracle, random_ids

from .conftest import MakeEngine

NEW = 64


@pytest.fixture(scope="module")
def reference() -> object:
    return oracle(seed=5, qk_scale=2.0)


def prompts_of(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [random_ids(rng.randint(1, 48), seed=index) for index in range(count)]


def generate_padded(reference: object, prompts: list[list[int]], new: int) -> list[list[int]]:
    """transformers' own static batch: left-padded, EOS ignored."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    reference.generation_config.eos_token_id = None
    out = reference.generate(
        ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0
    )
    return out[:, width:].tolist()


@pytest.mark.slow
def test_row_3_and_4_greedy_tokens_past_the_window(make: MakeEngine, reference: object) -> None:
    """100 ragged prompts, 64 tokens each: through 8 windows, in one packed batch and in chunks."""
    prompts = prompts_of(100)
    expected = generate_padded(reference, prompts, NEW)
    params = SamplingParams(max_tokens=NEW, ignore_eos=True)
    outputs = make().generate(prompts, params)
    equal = sum(list(o.token_ids) == e for o, e in zip(outputs, expected, strict=True))
    print(f"\nrow 3: {equal} of {len(prompts)} prompts x {NEW} greedy tokens equal")
    assert equal == len(prompts)
    assert {o.finish_reason for o in outputs} == {"length"}


def test_row_4_alone_and_padded_and_packed(make: MakeEngine, reference: object) -> None:
    prompts = prompts_of(6)
    engine = make()
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    packed = [list(output.token_ids) for output in engine.generate(prompts, params)]
    alone = [list(engine.generate([prompt], params)[0].token_ids) for prompt in prompts]
    oracle_alone = [generate_padded(reference, [prompt], 20)[0] for prompt in prompts]
    assert packed == alone == generate_padded(reference, prompts, 20) == oracle_alone


@pytest.mark.slow
def test_row_5_two_ranks(make: MakeEngine) -> None:
    prompts = prompts_of(20)
    params = SamplingParams(max_tokens=24, ignore_eos=True, logprobs=0)
    one = make().generate(prompts, params)
    two = make(tensor_parallel=2).generate(prompts, params)
    assert [output.token_ids for output in one] == [output.token_ids for output in two]
    worst = max(
        abs(a.cumulative_logprob - b.cumulative_logprob) for a, b in zip(one, two, strict=True)
    )
    print(f"\nrow 5: tokens equal, sums of 24 log-probabilities differ by at most {worst:.1e}")
    assert worst < 1e-3


@pytest.mark.parametrize("budget", [16, 17, 64])
@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_chunks_and_pages_change_nothing(
    make: MakeEngine, reference: object, budget: int, page_size: int
) -> None:
    prompts = [random_ids(count, seed=count) for count in (1, 7, 8, 9, 40)]
    engine = make(max_batch_tokens=budget, page_size=page_size)
    outputs = engine.generate(prompts, SamplingParams(max_tokens=12, ignore_eos=True))
    expected = generate_padded(reference, prompts, 12)
    assert [list(output.token_ids) for output in outputs] == expected


def test_row_6_bfloat16_runs_close_to_float32(make: MakeEngine) -> None:
    prompts = prompts_of(8)
    exact = make().logprobs(prompts)
    rounded = make(dtype="bfloat16").logprobs(prompts)
    errors = [
        abs(a - b)
        for x, y in zip(exact, rounded, strict=True)
        for a, b in zip(x.logprobs[1:], y.logprobs[1:], strict=True)
        if a is not None and b is not None
    ]
    assert sum(errors) / len(errors) < 0.15
