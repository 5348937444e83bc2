"""Contexts past the window of 4,096 tokens and up to the limit of 8,192, as Gemma 2 has them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import Engine, EngineConfig, SamplingParams
from model.errors import PromptError
from tests.model.helpers import Pair, oracle, oracle_logits, random_ids, report
from tests.model.ways import ROUNDED, Way, params_of

WINDOW, LIMIT = 4096, 8192
# Small in everything but length, so that eager attention over 8,192 tokens takes seconds.
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "max_position_embeddings": LIMIT,
    "qk_scale": 2.0,
    "seed": 3,
}

# With these weights every query attends to 90 much more than to 7, so that it matters, even among
# 4,096 tokens, whether it is still seen.
LOUD, QUIET = 90, 7
LOUD_AT = (0, 1, 2, 3000, 3001, 3002)

Make = Callable[[int], Engine]


@pytest.fixture(scope="module")
def reference() -> Any:
    return oracle(**SMALL, sliding_window=WINDOW)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Engines of the same weights, with a window of so many tokens."""
    engines: dict[int, Engine] = {}

    def build(window: int) -> Engine:
        if window not in engines:
            folder = tmp_path_factory.mktemp("long") / "model"
            oracle(**SMALL, sliding_window=window).save_pretrained(folder)
            settings = {"dtype": "float32", "kernels": "plain", "attention": "reference"}
            config = EngineConfig(
                checkpoint=str(folder), threads=1, kv_cache_bytes=16 << 20, **settings
            )
            engines[window] = Engine(config)
        return engines[window]

    yield build
    for engine in engines.values():
        engine.close()


def telling_ids(count: int) -> list[int]:
    """A prompt in which the window's edge can be seen: at 4,096 to 4,098 and 7,096 to 7,098."""
    return [LOUD if place in LOUD_AT else QUIET for place in range(count)]


def logprobs(engine: Engine, ids: list[int]) -> Tensor:
    """Of each token but the first, as the engine computes it: in chunks, over its paged cache."""
    (output,) = engine.logprobs([ids])
    return torch.tensor(output.logprobs[1:])


def check_greedy(scores: Tensor, answer: list[int]) -> None:
    """Transformers, given the prompt and the answer at once, would say each of its tokens."""
    assert scores[-len(answer) - 1 : -1].argmax(-1).tolist() == answer


@pytest.mark.slow
def test_every_place_up_to_the_limit(reference: Any, make: Make, record_property: Any) -> None:
    engine, prompt = make(WINDOW), telling_ids(LIMIT - 6)
    output = engine.generate([prompt], SamplingParams(max_tokens=99, ignore_eos=True))[0]
    answer = list(output.token_ids)
    assert (len(answer), output.finish_reason) == (6, "length")

    ids = prompt + answer
    scores = oracle_logits(reference, ids)
    check_greedy(scores, answer)
    want = scores[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
    got = logprobs(engine, ids)
    assert len(got) == LIMIT - 1
    for name, part in {
        "before the window is full": slice(0, WINDOW - 1),
        "around its edge": slice(WINDOW - 3, WINDOW + 3),
        "past it": slice(WINDOW, None),
    }.items():
        worst = float((got[part] - want[part]).abs().max())
        report(record_property, "long context", f"max |Δ| of log-probabilities {name}", worst)
        assert worst < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("way", params_of([ROUNDED[-1]]), indirect=True)
def test_bfloat16_past_the_window(way: Way, tmp_path: Path, record_property: Any) -> None:
    pair = Pair(way, **{**SMALL, "head_dim": way.head_dim}, sliding_window=WINDOW)
    pair.rounded.save_pretrained(tmp_path / "model")
    config = EngineConfig(
        checkpoint=str(tmp_path / "model"),
        kernels=way.kernels,
        attention=way.attention,
        kv_cache_bytes=16 << 20,
        threads=1,
    )
    ids = random_ids(5000, seed=6)
    with Engine(config) as engine:
        got = logprobs(engine, ids)

    def ask(reference: Any) -> Tensor:
        scores = oracle_logits(reference, ids)[WINDOW:-1].float().log_softmax(-1)
        return scores.gather(1, torch.tensor(ids[WINDOW + 1 :])[:, None]).squeeze(1)

    pair.check(record_property, "row 6, past a window of 4,096", got[WINDOW:], ask)


def test_the_window_ends_where_it_should(make: Make) -> None:
    """The query at 4,096 is the first that no longer sees the token at 0."""
    ids = telling_ids(WINDOW + 4)
    far = (logprobs(make(WINDOW), ids) - logprobs(make(LIMIT), ids)).abs()
    assert float(far[:WINDOW].max()) < 1e-5
    assert float(far[WINDOW:].min()) > 5e-4  # far more than what separates us from transformers


@pytest.mark.parametrize("prompt", [WINDOW - 6, WINDOW + 1])
def test_answers_across_the_edge(prompt: int, reference: Any, make: Make) -> None:
    """From 4,090 tokens on past 4,095, 4,096 and 4,097; and from a prompt that is beyond them."""
    ids = random_ids(prompt, seed=prompt)
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    answer = list(make(WINDOW).generate([ids], params)[0].token_ids)
    assert len(answer) == 8
    check_greedy(oracle_logits(reference, ids + answer), answer)


def test_the_limit(make: Make) -> None:
    engine = make(WINDOW)
    one = SamplingParams(max_tokens=1, ignore_eos=True)
    assert len(engine.generate([random_ids(LIMIT - 1)], one)[0].token_ids) == 1
    for count, ask in [(LIMIT, engine.generate), (LIMIT + 1, engine.logprobs)]:
        with pytest.raises(PromptError, match=f"has {count} tokens, and 8192 is the limit"):
            ask([random_ids(count)])
    assert not engine.has_work
