"""What the engine promises besides parity: ends, draws, branches, limits and refusals."""

import math
import random

import pytest

from model import (
    Embed,
    EngineConfig,
    Generate,
    ParameterError,
    PromptError,
    PromptLogprobs,
    RequestOutput,
    SamplingParams,
    ScoreLabels,
    TaskError,
)
from model.engine.engine import Engine
from tests.model.helpers import random_ids

from .conftest import MakeEngine


def run(engine: Engine) -> dict[str, RequestOutput]:
    outputs = {}
    while engine.has_work:
        for update in engine.step():
            if update.output:
                outputs[update.request_id] = update.output
    return outputs


class TestEnds:
    def test_every_eos_id_of_the_generation_config(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(9)
        free = engine.generate([prompt], SamplingParams(max_tokens=10, ignore_eos=True))[0]
        end = free.token_ids[4]
        first = free.token_ids.index(end)
        stopped = engine.generate(
            [prompt], SamplingParams(max_tokens=10, ignore_eos=True, stop_token_ids=[end])
        )[0]
        assert stopped.token_ids == free.token_ids[: first + 1]
        assert stopped.finish_reason == "stop"

    def test_min_tokens_bans_the_ends_before(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(9)
        free = engine.generate([prompt], SamplingParams(max_tokens=6, ignore_eos=True))[0]
        params = SamplingParams(
            max_tokens=6, min_tokens=4, stop_token_ids=[free.token_ids[0]], ignore_eos=True
        )
        output = engine.generate([prompt], params)[0]
        assert free.token_ids[0] not in output.token_ids[:4]
        assert len(output.token_ids) >= 4

    def test_one_token(self, make: MakeEngine) -> None:
        output = make().generate([random_ids(5)], SamplingParams(max_tokens=1, ignore_eos=True))[0]
        assert len(output.token_ids) == 1
        assert output.finish_reason == "length"

    def test_the_model_length_cuts_an_answer(self, make: MakeEngine) -> None:
        engine = make(max_model_len=20)
        output = engine.generate([random_ids(15)], SamplingParams(max_tokens=99, ignore_eos=True))
        assert len(output[0].token_ids) == 5
        assert output[0].finish_reason == "length"

    def test_a_stop_string_is_cut_from_the_text(self, make: MakeEngine) -> None:
        engine = make("text-lm")
        free = engine.generate(["Hello"], SamplingParams(max_tokens=30, ignore_eos=True))[0]
        middle = len(free.text) // 2
        stop = free.text[middle : middle + 3]
        params = SamplingParams(max_tokens=30, ignore_eos=True, stop=[stop])
        output = engine.generate(["Hello"], params)[0]
        assert output.text == free.text[: free.text.index(stop)]
        assert output.finish_reason == "stop"
        assert output.completions[0].stop_string == stop


class TestDraws:
    def test_a_seeded_request_does_not_depend_on_the_batch(self, make: MakeEngine) -> None:
        engine = make()
        prompts = [random_ids(count, seed=count) for count in (3, 11, 30)]
        rng = random.Random(1)
        settings = [
            {"temperature": 1.0, "seed": 11},
            {"temperature": 0.8, "top_p": 0.9, "seed": 12, "repetition_penalty": 1.2},
            {"temperature": 1.3, "top_k": 7, "seed": 13, "presence_penalty": 0.5},
        ]
        params = [SamplingParams(max_tokens=20, ignore_eos=True, **s) for s in settings]
        alone = [
            engine.generate([prompt], p)[0].token_ids
            for prompt, p in zip(prompts, params, strict=True)
        ]
        others = [random_ids(rng.randint(1, 40), seed=100 + n) for n in range(12)]
        mixed = engine.generate(
            [*others, *prompts],
            [SamplingParams(max_tokens=rng.randint(1, 30), temperature=1.0) for _ in others]
            + params,
        )
        assert [output.token_ids for output in mixed[len(others) :]] == alone

    def test_n_answers_share_one_prompt(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(21)
        params = SamplingParams(max_tokens=12, temperature=1.0, seed=3, n=4, ignore_eos=True)
        output = engine.generate([prompt], params)[0]
        assert engine.stats.prompt_tokens == 21
        assert len({c.token_ids for c in output.completions}) == 4
        single = engine.generate([prompt], params.model_copy(update={"n": 1}))[0]
        assert single.token_ids == output.completions[0].token_ids

    def test_logprobs_are_the_models_own(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(9)
        params = SamplingParams(max_tokens=8, ignore_eos=True, logprobs=3, temperature=0.5, seed=1)
        output = engine.generate([prompt], params)[0]
        assert output.logprobs is not None
        whole = engine.logprobs([[*prompt, *output.token_ids]])[0].logprobs[len(prompt) :]
        assert [entry.logprob for entry in output.logprobs] == pytest.approx(whole, abs=1e-4)
        assert output.cumulative_logprob == pytest.approx(math.fsum(map(float, whole)), abs=1e-3)
        assert all(len(entry.top) == 3 for entry in output.logprobs)


class TestManyAnswersFromOnePrefill:
    def test_generation_labels_embedding_and_logprobs_together(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(19)
        labels = ScoreLabels(("a", "b", "c"), ((7,), (7, 8, 9), (10, 11)))
        params = SamplingParams(max_tokens=9, ignore_eos=True)
        engine.add_request(
            prompt, [Generate(params), labels, Embed(), PromptLogprobs()], request_id="all"
        )
        generated, scored, embedded, logprobs = run(engine)["all"].results
        assert engine.stats.prompt_tokens == 19
        assert generated.token_ids == engine.generate([prompt], params)[0].token_ids  # type: ignore[union-attr]
        again = engine.embed([prompt])[0].embedding
        assert embedded.embedding == pytest.approx(again, abs=1e-5)  # type: ignore[union-attr]
        values = engine.logprobs([prompt])[0].logprobs[1:]
        assert logprobs.logprobs[1:] == pytest.approx(values, abs=1e-4)  # type: ignore[union-attr]
        for label, total in zip(labels.label_ids, scored.logits, strict=True):  # type: ignore[union-attr]
            tail = engine.logprobs([[*prompt, *label]])[0].logprobs[len(prompt) :]
            assert total == pytest.approx(math.fsum(map(float, tail)), abs=1e-4)

    def test_mean_divides_by_the_label_length(self, make: MakeEngine) -> None:
        engine = make()
        prompt = random_ids(6)
        ids = ((7,), (8, 9, 10))
        results = {}
        for normalize in ("sum", "mean"):
            engine.add_request(prompt, [ScoreLabels(("x", "y"), ids, normalize)], request_id="r")  # type: ignore[arg-type]
            results[normalize] = run(engine)["r"].results[0]
        first, second = results["sum"].logits  # type: ignore[union-attr]
        assert results["mean"].logits == pytest.approx((first, second / 3))  # type: ignore[union-attr]
        assert sum(s.score for s in results["mean"].scores) == pytest.approx(1)  # type: ignore[union-attr]


class TestDriving:
    def test_requests_join_and_leave_while_it_runs(self, make: MakeEngine) -> None:
        engine = make(max_sequences=4)
        params = SamplingParams(max_tokens=10, ignore_eos=True)
        prompts = {str(n): random_ids(5 + n, seed=n) for n in range(12)}
        outputs = {}
        for name, prompt in prompts.items():
            engine.add_request(prompt, [Generate(params)], request_id=name)
            for update in engine.step():
                if update.output:
                    outputs[update.request_id] = update.output
        assert engine.abort("11")
        assert not engine.abort("11")
        outputs |= run(engine)
        assert set(outputs) == set(prompts) - {"11"}
        for name, output in outputs.items():
            alone = engine.generate([prompts[name]], params)[0]
            assert output.results[0].token_ids == alone.token_ids  # type: ignore[union-attr]
        assert engine._scheduler.cache.pool.num_free == engine._scheduler.cache.pool.num_pages

    def test_a_stream_adds_up_to_the_answer(self, make: MakeEngine) -> None:
        engine = make("text-lm")
        params = SamplingParams(max_tokens=15, n=2, temperature=1.0, seed=5, ignore_eos=True)
        engine.add_request("Hello there", [Generate(params)], request_id="s", stream=True)
        texts, ids, output = ["", ""], [(), ()], None
        while engine.has_work:
            for update in engine.step():
                for delta in update.deltas:
                    texts[delta.index] += delta.text
                    ids[delta.index] += delta.token_ids
                output = update.output or output
        assert output is not None
        generated = output.results[0]
        assert [c.text for c in generated.completions] == texts  # type: ignore[union-attr]
        assert [c.token_ids for c in generated.completions] == ids  # type: ignore[union-attr]

    def test_a_step_with_nothing_to_do(self, make: MakeEngine) -> None:
        assert make().step() == []

    def test_more_requests_than_the_cache_holds(self, make: MakeEngine) -> None:
        few = make(kv_cache_bytes=1 << 17)
        params = SamplingParams(max_tokens=20, ignore_eos=True)
        prompts = [random_ids(30, seed=n) for n in range(20)]
        assert few._scheduler.cache.pool.num_pages < 20 * 10
        many = make().generate(prompts, params)
        assert [o.token_ids for o in few.generate(prompts, params)] == [o.token_ids for o in many]


class TestRefusals:
    @pytest.mark.parametrize(
        ("prompt", "words"),
        [
            ([], "empty"),
            ([5, 103], r"prompt\[1\] is 103.*\[0, 103\)"),
            ([5, -1], r"prompt\[1\] is -1"),
            ([5, "x"], r"prompt\[1\] is 'x'"),
            ([5] * 21, "21 tokens, and 20 is the limit"),
        ],
    )
    def test_bad_prompts(self, make: MakeEngine, prompt: list[int], words: str) -> None:
        engine = make(max_model_len=20)
        with pytest.raises(PromptError, match=words):
            engine.generate([[5], prompt])
        assert not engine.has_work, "the good prompt before it must not linger"

    def test_text_without_a_tokenizer(self, make: MakeEngine) -> None:
        with pytest.raises(TaskError, match="no tokenizer files"):
            make().generate(["hello"])

    def test_tasks_that_the_head_can_not_do(self, make: MakeEngine) -> None:
        with pytest.raises(TaskError, match="sequence_classification"):
            make().classify([[5]])
        with pytest.raises(TaskError, match="causal_lm"):
            make("classifier").generate([[5]])

    def test_a_request_larger_than_the_cache(self, make: MakeEngine) -> None:
        engine = make(kv_cache_bytes=1 << 17)
        with pytest.raises(PromptError, match="KV pages"):
            engine.generate([random_ids(200)], SamplingParams(max_tokens=200))

    def test_a_cache_smaller_than_one_sequence(self, make: MakeEngine) -> None:
        with pytest.raises(ParameterError, match="raise kv_cache_bytes to"):
            make(kv_cache_bytes=1 << 16, page_size=64)

    def test_an_id_in_use(self, make: MakeEngine) -> None:
        engine = make()
        engine.add_request([5], [Embed()], request_id="x")
        with pytest.raises(ParameterError, match="'x' is in use"):
            engine.add_request([5], [Embed()], request_id="x")

    def test_one_prompt_that_is_not_in_a_list(self, make: MakeEngine) -> None:
        with pytest.raises(ParameterError, match="put the single prompt into one"):
            make("text-lm").generate("hello")

    def test_float16(self) -> None:
        with pytest.raises(ParameterError, match=r"float16.*overflow"):
            EngineConfig(checkpoint="x", dtype="float16")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("max_tokens", 0), ("temperature", -0.1), ("temperature", float("nan")),
            ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1), ("min_p", 2.0), ("n", 0),
            ("repetition_penalty", 0.0), ("presence_penalty", 3.0), ("seed", -1),
            ("logprobs", 101), ("min_tokens", -1), ("logit_bias", {3: 101.0}), ("max_tokens", True),
        ],
    )  # fmt: skip
    def test_out_of_range_values_name_the_range(self, field: str, value: object) -> None:
        with pytest.raises(ParameterError, match=f"SamplingParams: {field}") as caught:
            SamplingParams(**{field: value})  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
