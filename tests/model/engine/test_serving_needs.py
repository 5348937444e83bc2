"""What online serving needs of the engine beside what jobs do."""

import pytest

from model import Generate, ParameterError, PromptLogprobs, SamplingParams
from model.engine.engine import Engine
from model.outputs import GenerationOutput, LogprobsOutput, RequestOutput, TokenDelta
from tests.model.helpers import random_ids

from .conftest import MakeEngine

FREE = SamplingParams(max_tokens=7, ignore_eos=True, temperature=1.0, seed=3, n=2, logprobs=2)


def run(engine: Engine) -> tuple[list[TokenDelta], RequestOutput]:
    deltas, outputs = [], []
    while engine.has_work:
        for update in engine.step():
            deltas += update.deltas
            outputs += [update.output] if update.output else []
    (output,) = outputs
    return deltas, output


def test_the_likeliest_tokens_of_a_prompt_are_those_that_would_be_drawn(make: MakeEngine) -> None:
    prompt = random_ids(41)  # longer than a step
    engine = make()
    engine.add_request(prompt, [PromptLogprobs(top=3)])
    before = engine.stats.output_tokens
    _, output = run(engine)
    (scored,) = output.results
    assert isinstance(scored, LogprobsOutput)
    assert scored.tops is not None
    assert engine.stats.output_tokens == before, "nothing was drawn"
    assert [len(top) for top in scored.tops] == [0] + [3] * 40
    greedy = SamplingParams(max_tokens=1, logprobs=3, ignore_eos=True)
    heads = [prompt[:n] for n in range(1, 41)]
    for place, answer in enumerate(engine.generate(heads, greedy), 1):
        assert answer.logprobs is not None
        wanted = answer.logprobs[0].top
        assert [i for i, _ in scored.tops[place]] == [i for i, _ in wanted]
        assert [p for _, p in scored.tops[place]] == pytest.approx([p for _, p in wanted], abs=1e-4)


def test_ranking_a_prompt_changes_nothing_beside_it(make: MakeEngine) -> None:
    prompt, engine = random_ids(20), make()
    engine.add_request(prompt, [Generate(FREE), PromptLogprobs()])
    _, plain = run(engine)
    engine.add_request(prompt, [Generate(FREE), PromptLogprobs(top=5)])
    _, ranked = run(engine)
    assert ranked.results[0] == plain.results[0]
    first, second = plain.results[1], ranked.results[1]
    assert isinstance(first, LogprobsOutput)
    assert isinstance(second, LogprobsOutput)
    assert second.logprobs == first.logprobs
    assert first.tops is None


def test_too_many_of_the_likeliest_are_refused(make: MakeEngine) -> None:
    with pytest.raises(ParameterError, match="logprobs"):
        make().add_request([5, 6], [PromptLogprobs(top=101)])


@pytest.mark.parametrize("overlap", [False, True])
def test_deltas_tell_log_probabilities_and_ends(make: MakeEngine, overlap: bool) -> None:
    engine = make(overlap=overlap)
    engine.add_request(random_ids(9), [Generate(FREE)], stream=True)
    deltas, output = run(engine)
    (result,) = output.results
    assert isinstance(result, GenerationOutput)
    for index, completion in enumerate(result.completions):
        mine = [delta for delta in deltas if delta.index == index]
        assert tuple(token for d in mine for token in d.logprobs or ()) == completion.logprobs
        assert [d.finish_reason for d in mine] == [None] * (len(mine) - 1) + ["length"]


def test_deltas_without_log_probabilities_have_none(make: MakeEngine) -> None:
    engine = make()
    engine.add_request([5, 6], [Generate(SamplingParams(max_tokens=2))], stream=True)
    deltas, _ = run(engine)
    assert {delta.logprobs for delta in deltas} == {None}


@pytest.mark.parametrize("schedule", ["shard", "fcfs"])
def test_prompts_share_pages_within_a_salt_alone(make: MakeEngine, schedule: str) -> None:
    engine, prompt = make(schedule=schedule), random_ids(33)
    task = Generate(SamplingParams(max_tokens=2, ignore_eos=True))
    hits, answers = [], []
    for salt in (b"", b"one", b"two", b"one", b""):
        before = engine.stats.prefix_hit_tokens
        engine.add_request(prompt, [task], salt=salt)
        _, output = run(engine)
        hits.append(engine.stats.prefix_hit_tokens - before)
        answers.append(output.results)
    assert hits[:3] == [0, 0, 0]
    assert hits[3] == hits[4] > 0
    assert all(answer == answers[0] for answer in answers)
