"""Requests of every kind, running them, and comparing what two engines make of them."""

import random
from collections import defaultdict
from typing import Any

import pytest

from model import (
    Embed,
    Generate,
    GenerationOutput,
    PromptLogprobs,
    RequestOutput,
    SamplingParams,
    ScoreLabels,
)
from model.engine.engine import Engine
from model.tasks import Task
from tests.model.helpers import random_ids

Requests = dict[str, tuple[list[int], list[Task]]]
LABELS = ScoreLabels(("a", "b", "c"), ((7,), (7, 8, 9), (10, 11)))
ON_DEVICE: dict[str, dict[str, Any]] = {
    "greedy": {"max_tokens": 20},
    "seeded": {"max_tokens": 25, "temperature": 1.0, "seed": 1},
    "warm": {"max_tokens": 17, "temperature": 1.4, "seed": 2, "logprobs": 0},
    "one": {"max_tokens": 1},
    "two": {"max_tokens": 2, "temperature": 1.0, "seed": 3},
    "three answers": {"max_tokens": 9, "temperature": 1.0, "seed": 4, "n": 3},
    "three ends": {
        "max_tokens": 25,
        "temperature": 1.0,
        "seed": 7,
        "n": 3,
        "stop_token_ids": list(range(30, 40)),
    },
    "biased": {"max_tokens": 12, "logit_bias": {7: 3.0, 90: 4.0}},
    "late": {"max_tokens": 12, "min_tokens": 6, "stop_token_ids": list(range(40, 103))},
    "soon": {
        "max_tokens": 30,
        "temperature": 1.0,
        "seed": 5,
        "stop_token_ids": list(range(30, 50)),
    },
}
ON_HOST: dict[str, dict[str, Any]] = {
    "penalized": {"max_tokens": 14, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    "filtered": {"max_tokens": 11, "temperature": 1.0, "top_p": 0.9, "top_k": 30, "seed": 6},
    "listed": {"max_tokens": 8, "logprobs": 3},
}


def params(**settings: Any) -> SamplingParams:
    return SamplingParams(**{"ignore_eos": True, **settings})


def requests_of(settings: dict[str, dict[str, Any]], *, stem: int = 0) -> Requests:
    """Prompts of all lengths, the longest in several chunks; with a stem, many begin alike."""
    beginning = random_ids(stem, seed=99) if stem else []
    rng = random.Random(3)
    return {
        name: ([*beginning, *random_ids(rng.randint(1, 45), seed=n)], [Generate(params(**s))])
        for n, (name, s) in enumerate(settings.items())
    }


MIXED: Requests = {
    **requests_of(ON_DEVICE),
    "labels": (random_ids(13, seed=20), [LABELS]),
    "all": (
        random_ids(37, seed=21),
        [Generate(params(max_tokens=6)), LABELS, Embed("mean"), PromptLogprobs()],
    ),
    "answer and vector": (random_ids(9, seed=22), [Generate(params(max_tokens=7)), Embed()]),
}


def run(
    engine: Engine, requests: Requests, *, every: int = 1, order: list[str] | None = None
) -> dict[str, RequestOutput]:
    """Add a request every so many steps, and check the streams on the way."""
    waiting = list(order or requests)
    outputs: dict[str, RequestOutput] = {}
    ids: defaultdict[tuple[str, int], tuple[int, ...]] = defaultdict(tuple)
    texts: defaultdict[tuple[str, int], str] = defaultdict(str)
    step = 0
    while waiting or engine.has_work:
        if waiting and step % every == 0:
            name = waiting.pop(0)
            engine.add_request(*requests[name], request_id=name, stream=True)
        step += 1
        for update in engine.step():
            for delta in update.deltas:
                ids[update.request_id, delta.index] += delta.token_ids
                texts[update.request_id, delta.index] += delta.text
            if update.output is not None:
                assert update.request_id not in outputs
                outputs[update.request_id] = update.output
    for name in requests:
        for result in outputs[name].results:
            if isinstance(result, GenerationOutput):
                for index, completion in enumerate(result.completions):
                    assert ids[name, index] == completion.token_ids
                    assert texts[name, index] == completion.text
    pool = engine._scheduler.cache.pool
    assert pool.num_free == pool.num_pages
    return outputs


def assert_same(found: dict[str, RequestOutput], expected: dict[str, RequestOutput]) -> None:
    """Exactly but for the rounding of float32: steps are composed otherwise."""
    assert found.keys() == expected.keys()
    for name, output in expected.items():
        pairs = zip(found[name].results, output.results, strict=True)
        for ours, theirs in pairs:
            assert_alike(plain(ours), plain(theirs), name)


def plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {key: plain(getattr(value, key)) for key in value.__dataclass_fields__}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def assert_alike(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert_alike(ours[key], value, f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for index, value in enumerate(theirs):
            assert_alike(ours[index], value, f"{where}[{index}]")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=2e-5), where
    else:
        assert ours == theirs, where
