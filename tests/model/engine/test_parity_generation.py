"""Rows 3 to 6 of the parity table through the engine: answers against transformers' eager model.

In float32 greedy tokens are the same. In bfloat16 they may tie, so there the log-probabilities that
the engine reports of its own answers are held to row 6, see `helpers.Pair`.
"""

import random
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from model import Engine, SamplingParams
from tests.model.helpers import Pair, oracle, oracle_logits, random_ids
from tests.model.ways import ROUNDED, Way, every_way, exact_ways, params_of

from .conftest import MakeEngine, settings_of
from .test_prefixes import family

NEW = 64
MODES: dict[str, dict[str, Any]] = {
    "prefixes, shard": {},
    "prefixes, fcfs": {"schedule": "fcfs"},
    "no prefixes, shard": {"prefix_caching": False},
    "no prefixes, fcfs": {"prefix_caching": False, "schedule": "fcfs"},
}


@pytest.fixture(scope="module")
def reference() -> object:
    return oracle(seed=5, qk_scale=2.0)


def pair_of(way: Way) -> Pair:
    """The oracle of the checkpoint that `settings_of` names."""
    return Pair(way, seed=5, qk_scale=2.0)


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


@exact_ways
def test_row_4_alone_and_padded_and_packed(make: MakeEngine, way: Way) -> None:
    reference, prompts = pair_of(way).exact, prompts_of(3)
    engine = make(**settings_of(way))
    params = SamplingParams(max_tokens=NEW // 4, ignore_eos=True)
    packed = [list(output.token_ids) for output in engine.generate(prompts, params)]
    alone = [list(engine.generate([prompt], params)[0].token_ids) for prompt in prompts]
    oracle_alone = [generate_padded(reference, [prompt], NEW // 4)[0] for prompt in prompts]
    assert packed == alone == generate_padded(reference, prompts, NEW // 4) == oracle_alone


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["prefixes, shard", "no prefixes, fcfs"])
def test_row_5_two_ranks(make: MakeEngine, mode: str, reference: object) -> None:
    prompts = [*prompts_of(12), *family(20, 4)]
    params = SamplingParams(max_tokens=24, ignore_eos=True, logprobs=0)
    expected = generate_padded(reference, prompts, 24)
    one, two = (make(tensor_parallel=size, **MODES[mode]) for size in (1, 2))
    for _ in range(2):
        alone, together = one.generate(prompts, params), two.generate(prompts, params)
        assert [list(output.token_ids) for output in together] == expected
        assert [list(output.token_ids) for output in alone] == expected
        worst = max(
            abs(a.cumulative_logprob - b.cumulative_logprob)
            for a, b in zip(alone, together, strict=True)
        )
        print(f"\nrow 5: sums of 24 log-probabilities differ by at most {worst:.1e}, {mode}")
        assert worst < 1e-3
    assert (two.stats.prefix_hit_tokens > 0) == mode.startswith("prefixes")


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


@exact_ways
@pytest.mark.parametrize(("mode", "page_size"), [*zip(MODES, (1, 16, 16, 1), strict=True)])
def test_row_3_cache_modes(make: MakeEngine, mode: str, page_size: int, way: Way) -> None:
    """Prompts that share a prefix longer than the window, computed and then remembered."""
    prompts = family(20, 2)
    expected = generate_padded(pair_of(way).exact, prompts, 12)
    engine = make(**settings_of(way), **MODES[mode], page_size=page_size)
    for _ in range(2):
        outputs = engine.generate(prompts, SamplingParams(max_tokens=12, ignore_eos=True))
        assert [list(output.token_ids) for output in outputs] == expected
    assert (engine.stats.prefix_hit_tokens > 0) == mode.startswith("prefixes")


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


@every_way
@pytest.mark.parametrize(("mode", "page_size"), [("prefixes, shard", 4), ("no prefixes, fcfs", 16)])
def test_row_6_reported_logprobs(
    make: MakeEngine, mode: str, page_size: int, way: Way, record_property: Any
) -> None:
    engine = make(**settings_of(way), **MODES[mode], page_size=page_size)
    check_reported(engine, pair_of(way), mode, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("way", params_of([ROUNDED[0], ROUNDED[-1]]), indirect=True)
def test_row_6_reported_logprobs_of_two_ranks(
    make: MakeEngine, way: Way, record_property: Any
) -> None:
    engine = make(**settings_of(way), tensor_parallel=2)
    check_reported(engine, pair_of(way), "2 ranks", record_property)


def check_reported(engine: Engine, pair: Pair, how: str, record_property: Any) -> None:
    """Hold answers to it; their prompts share a prefix, which may be remembered the next time."""
    prompts = family(20, 4)
    params = SamplingParams(max_tokens=16, ignore_eos=True, logprobs=0)
    for turn in ("first", "again"):
        outputs = engine.generate(prompts, params)
        answers = [output.completions[0] for output in outputs]
        got = torch.tensor([token.logprob for answer in answers for token in answer.logprobs or ()])
        ids = [answer.token_ids for answer in answers]
        what = f"row 6, log-probabilities of answers, {how}, {turn}"
        pair.check(
            record_property, what, got, partial(teacher_forced, prompts=prompts, answers=ids)
        )


def teacher_forced(model: Any, prompts: list[list[int]], answers: list[tuple[int, ...]]) -> Tensor:
    """The oracle's log-probabilities of these tokens after these prompts."""
    parts = []
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = oracle_logits(model, [*prompt, *answer])[len(prompt) - 1 : -1].float()
        parts.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
    return torch.cat(parts)
