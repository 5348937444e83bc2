"""Prompts that share their beginnings: the same answers, computed once."""

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from model import (
    Classify,
    Embed,
    Engine,
    Generate,
    PromptLogprobs,
    SamplingParams,
    ScoreLabels,
)
from tests.model.helpers import random_ids

from .conftest import MakeEngine
from .test_engine import run

WINDOW = 8  # of the tiny checkpoints; their pages hold 4 tokens
GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)


def family(prefix: int, members: int, seed: int = 0) -> list[list[int]]:
    """Prompts that share exactly `prefix` tokens, and one that is the prefix and one token."""
    stem = random_ids(prefix, seed=seed)
    tails = [random_ids(5 + n, seed=1000 * seed + n) for n in range(members)]
    return [*([*stem, 3 + n, *tail] for n, tail in enumerate(tails)), [*stem, 99]]


def held(engine: Engine) -> int:
    pool = engine._scheduler.cache.pool
    return pool.num_pages - pool.num_free


@pytest.mark.parametrize("prefix", [3, 4, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 2])
def test_hits_change_no_token(make: MakeEngine, prefix: int) -> None:
    prompts = family(prefix, 6)
    expected = make(prefix_caching=False, schedule="fcfs").generate(prompts, GREEDY)
    for policy in ("shard", "fcfs"):
        engine = make(schedule=policy)
        for _ in range(2):
            outputs = engine.generate(prompts, GREEDY)
            assert [o.token_ids for o in outputs] == [e.token_ids for e in expected]
        everything = 2 * sum(map(len, prompts))
        assert engine.stats.prompt_tokens + engine.stats.prefix_hit_tokens == everything
        assert engine.stats.prefix_queried_tokens >= engine.stats.prefix_hit_tokens
        whole = prefix // 4 * 4
        least = (2 if policy == "shard" else 1) * 6 * whole
        assert engine.stats.prefix_hit_tokens >= least
        assert held(engine) == 0


def test_a_group_computes_its_prefix_once(make: MakeEngine) -> None:
    engine = make(max_batch_tokens=64)
    prompts = family(40, 10)
    engine.generate(prompts, GREEDY)
    assert engine.stats.prompt_tokens == 40 + sum(len(p) - 40 for p in prompts)


def test_who_comes_while_the_prefix_is_computed_waits_for_it(make: MakeEngine) -> None:
    engine = make(max_batch_tokens=16)
    first, second, *_ = family(48, 2)
    engine.add_request(first, [Generate(GREEDY)], request_id="first")
    engine.step()
    engine.add_request(second, [Generate(GREEDY)], request_id="second")
    outputs = run(engine)
    assert engine.stats.prompt_tokens == len(first) + len(second) - 48
    for name, prompt in (("first", first), ("second", second)):
        alone = make().generate([prompt], GREEDY)[0].token_ids
        assert outputs[name].results[0].token_ids == alone  # type: ignore[union-attr]


def test_an_evicted_prefix_is_computed_again(make: MakeEngine) -> None:
    engine = make(kv_cache_bytes=1 << 17)
    prompt = family(40, 1)[0]
    before = engine.generate([prompt], GREEDY)[0].token_ids
    for seed in range(1, 20):
        engine.generate([random_ids(60, seed=seed)], GREEDY)
    hits = engine.stats.prefix_hit_tokens
    assert engine.generate([prompt], GREEDY)[0].token_ids == before
    assert engine.stats.prefix_hit_tokens == hits


def test_forgetting_prefixes(make: MakeEngine) -> None:
    engine = make()
    prompt = family(40, 1)[0]
    engine.generate([prompt], GREEDY)
    engine.forget_prefixes()
    engine.generate([prompt], GREEDY)
    assert engine.stats.prefix_hit_tokens == 0


def test_answers_that_branch_from_a_hit(make: MakeEngine) -> None:
    """The page that the prompt ends in is copied by each of them; the shared ones are not."""
    prompts = family(21, 3)
    params = SamplingParams(max_tokens=10, temperature=1.0, seed=3, n=4, ignore_eos=True)
    expected = make(prefix_caching=False).generate(prompts, params)
    engine = make()
    for _ in range(2):
        outputs = engine.generate(prompts, params)
        assert [[c.token_ids for c in o.completions] for o in outputs] == [
            [c.token_ids for c in e.completions] for e in expected
        ]


def test_an_abort_of_the_one_who_computes_the_prefix(make: MakeEngine) -> None:
    engine = make(max_batch_tokens=16)
    prompts = family(48, 4)
    for name, prompt in enumerate(prompts):
        engine.add_request(prompt, [Generate(GREEDY)], request_id=str(name))
    engine.step()
    assert engine.running == 1
    leader = next(iter(engine._scheduler.running))
    engine.abort(leader)
    outputs = run(engine)
    assert len(outputs) == len(prompts) - 1
    assert held(engine) == 0


class TestTasksThatNeedRowsOfThePrompt:
    def test_they_compute_the_whole_prompt(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(30)
        fresh = engine.logprobs([prompt])[0].logprobs
        mean = engine.embed([prompt], pooling="mean")[0].embedding
        assert engine.stats.prefix_hit_tokens == 0
        assert engine.logprobs([prompt])[0].logprobs[1:] == pytest.approx(fresh[1:], abs=1e-5)
        assert engine.embed([prompt], pooling="mean")[0].embedding == pytest.approx(mean, abs=1e-5)
        last = engine.embed([prompt])[0].embedding
        assert engine.stats.prefix_hit_tokens == 28
        assert make(prefix_caching=False).embed([prompt])[0].embedding == pytest.approx(
            last, abs=1e-5
        )

    def test_one_task_of_several_is_enough(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(30)
        for _ in range(2):
            engine.add_request(prompt, [Generate(GREEDY), PromptLogprobs(), Embed()])
            run(engine)
        assert engine.stats.prefix_hit_tokens == 0

    def test_the_classification_head_reads_before_the_padding(self, make: MakeEngine) -> None:
        engine = make("classifier")
        prompt = [*random_ids(14), *[0] * 12]
        expected = make("classifier", prefix_caching=False).classify([prompt])[0].logits
        for _ in range(2):
            engine.add_request(prompt, [Classify()], request_id="c")
            assert run(engine)["c"].results[0].logits == pytest.approx(expected, abs=1e-5)  # type: ignore[union-attr]
        assert engine.stats.prefix_hit_tokens == 12

    def test_padding_only(self, make: MakeEngine) -> None:
        engine = make("classifier")
        assert engine.classify([[0] * 9])[0] == engine.classify([[0] * 9])[0]


def test_labels_are_one_batch_of_branches(make: MakeEngine) -> None:
    """Two steps, whatever the number of labels: the prompt, then what follows in all labels."""
    engine = make(max_batch_tokens=64)
    rng = random.Random(0)
    ids = tuple(tuple(rng.sample(range(3, 103), 1 + n % 4)) for n in range(20))
    task = ScoreLabels(tuple(map(str, ids)), ids)
    engine.add_request(random_ids(21), [task], request_id="r")
    output = run(engine)["r"].results[0]
    assert engine.stats.steps == 2
    assert engine.stats.prompt_tokens == 21
    assert len(output.logits) == 20  # type: ignore[union-attr]


class TestMemoryReport:
    def test_it_is_what_was_allocated(self, make: MakeEngine) -> None:
        engine = make(kv_cache_bytes=1 << 20)
        report = engine.memory_report((16, 64))
        runner = engine._executor.runner
        assert runner._cache is not None  # type: ignore[attr-defined]
        assert report.kv_bytes == runner._cache._pages.nbytes  # type: ignore[attr-defined]
        stored = [load_file(file) for file in Path(engine.config.checkpoint).glob("*.safetensors")]
        assert report.weight_bytes == sum(t.nbytes for part in stored for t in part.values())
        assert report.left_bytes == report.free_bytes - report.kv_bytes
        # 16 tokens in 4 pages of each group; of 64 the window and a chunk (7 + 32) stay.
        assert report.sequences == {16: report.pages // 8, 64: report.pages // (16 + 11)}

    def test_it_reads_well(self, make: MakeEngine) -> None:
        text = str(make(kv_cache_bytes=1 << 20, page_size=4).memory_report((64,)))
        assert "KV cache" in text
        assert "1.0 MiB" in text
        assert max(map(len, text.splitlines())) <= 100
