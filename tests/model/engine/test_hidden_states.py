"""Hidden states of every layer, pooled and not, against transformers' `output_hidden_states`."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model import Embed, Engine, Generate, ParameterError, RequestOutput, SamplingParams
from model.batch import PackedBatch
from model.engine.executor import InProcess
from model.engine.graphs import DecodeGraphs
from model.tasks import Pooling, Task
from tests.model.helpers import Pair, oracle, random_ids
from tests.model.ways import Way, every_way

from .conftest import MakeEngine, settings_of

LAYERS = 4
SHARED = random_ids(37, seed=1)
PROMPTS = [random_ids(41), [*SHARED, *random_ids(9, seed=2)], [*SHARED, 5], [7]]
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "cls")
GREEDY = SamplingParams(max_tokens=5, ignore_eos=True)


@pytest.fixture(scope="module")
def wanted() -> list[list[Tensor]]:
    """Of each prompt, the hidden states [T, D] of each layer."""
    reference = oracle(seed=5, qk_scale=2.0)
    with torch.no_grad():
        outputs = [
            reference.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            for ids in PROMPTS
        ]
    return [[states[0] for states in output] for output in outputs]


def pooled(states: Tensor, pooling: Pooling) -> Tensor:
    return {"last": states[-1], "mean": states.mean(0), "cls": states[0], "none": states}[pooling]


def close(ours: Any, theirs: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", range(-LAYERS - 1, LAYERS + 1))
def test_every_layer_and_pooling_is_that_of_transformers(
    make: MakeEngine, wanted: list[list[Tensor]], layer: int
) -> None:
    """In chunks, and partly of prompts that another one has begun like."""
    engine = make(max_batch_tokens=16)
    for pooling in POOLINGS:
        raw = engine.embed(PROMPTS, pooling=pooling, normalize=False, layer=layer)
        unit = engine.embed(PROMPTS, pooling=pooling, layer=layer)
        for states, vector, direction in zip(wanted, raw, unit, strict=True):
            expected = pooled(states[layer], pooling)
            close(vector.embedding, expected)
            close(direction.embedding, expected / expected.norm())
    for states, output in zip(wanted, engine.hidden_states(PROMPTS, layer=layer), strict=True):
        close(output.hidden_states, states[layer])
        assert output.hidden_states.dtype == np.float32
        assert output.prompt_tokens == len(states[layer])


@every_way
@pytest.mark.parametrize("layer", [0, 2, LAYERS])
def test_in_every_way(make: MakeEngine, way: Way, layer: int, record_property: Any) -> None:
    pair = Pair(way, seed=5, qk_scale=2.0)
    prompts = [random_ids(count, seed=count) for count in range(20, 32)]
    outputs = make(**settings_of(way)).hidden_states(prompts, layer=layer)

    def expected(model: Any) -> Tensor:
        states = [model.model(torch.tensor([p]), output_hidden_states=True) for p in prompts]
        return torch.cat([one.hidden_states[layer][0] for one in states])

    found = torch.cat([torch.from_numpy(output.hidden_states) for output in outputs])
    pair.check(record_property, f"row 7, layer {layer} through the engine", found, expected)


@pytest.mark.parametrize(("inner", "depth"), [((1,), None), ((1,), 1), ((), None)])
def test_a_graph_has_the_final_states_alone(inner: tuple[int, ...], depth: int | None) -> None:
    ones = np.ones(2, dtype=np.int64)
    backend: Any = SimpleNamespace(has_static_plans=True)
    nothing: Any = None
    graphs = DecodeGraphs(nothing, nothing, 0, backend, nothing)
    assert graphs.takes(PackedBatch(ones, ones, ones, ones, {}, inner=inner, depth=depth)) == (
        not inner
    )


def run(engine: Engine, requests: Sequence[tuple[list[int], list[Task]]]) -> list[RequestOutput]:
    names = [engine.add_request(prompt, tasks) for prompt, tasks in requests]
    outputs: dict[str, RequestOutput] = {}
    while engine.has_work:
        outputs |= {u.request_id: u.output for u in engine.step() if u.output is not None}
    return [outputs[name] for name in names]


def test_layers_beyond_what_is_wanted_are_not_computed(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths: list[int | None] = []
    launch = InProcess.launch

    def seen(self: InProcess, batch: Any, queries: Any) -> Any:
        depths.append(batch.depth)
        return launch(self, batch, queries)

    monkeypatch.setattr(InProcess, "launch", seen)
    engine = make()
    shallow: list[Task] = [Embed("mean", layer=1)]
    run(engine, [(PROMPTS[0], shallow)])
    assert set(depths) == {1}
    depths.clear()
    run(engine, [(PROMPTS[0], [*shallow, Generate(GREEDY)]), (PROMPTS[3], shallow)])
    assert set(depths) == {None}


def test_pages_of_few_layers_are_not_taken_for_whole_ones(
    make: MakeEngine, wanted: list[list[Tensor]]
) -> None:
    """What is shared of prompts that begin alike must have keys of all the layers that follow."""
    fresh = make().generate([PROMPTS[1]], GREEDY)
    engine = make()
    for layer in (0, 1, 3):
        (vector,) = engine.embed([PROMPTS[2]], layer=layer, normalize=False)
        close(vector.embedding, wanted[2][layer][-1])
    assert engine.generate([PROMPTS[1]], GREEDY) == fresh
    (vector,) = engine.embed([PROMPTS[1]], layer=2, normalize=False)
    close(vector.embedding, wanted[1][2][-1])
    hits = engine.stats.prefix_hit_tokens
    engine.embed([[*PROMPTS[1], 9]], layer=2)
    assert engine.stats.prefix_hit_tokens > hits


@pytest.mark.parametrize("overlap", [False, True])
def test_several_layers_beside_an_answer(
    make: MakeEngine, wanted: list[list[Tensor]], overlap: bool
) -> None:
    engine = make(max_batch_tokens=32, overlap=overlap)
    (alone,) = make().generate([PROMPTS[0]], GREEDY)
    requests: list[tuple[list[int], list[Task]]] = [
        (PROMPTS[0], [Generate(GREEDY), Embed("mean", normalize=False, layer=2)]),
        (PROMPTS[1], [Embed("none", normalize=False, layer=0)]),
        (PROMPTS[2], [Embed("last", normalize=False, layer=3)]),
    ]
    first, second, third = run(engine, requests)
    answer, mean = first.results
    assert getattr(answer, "token_ids", None) == alone.token_ids
    close(getattr(mean, "embedding", None), wanted[0][2].mean(0))
    close(getattr(second.results[0], "hidden_states", None), wanted[1][0])
    close(getattr(third.results[0], "embedding", None), wanted[2][3][-1])


def test_on_two_ranks(make: MakeEngine, wanted: list[list[Tensor]]) -> None:
    engine = make(tensor_parallel=2, max_batch_tokens=16)
    for layer in (0, 2, -1):
        outputs = engine.embed(PROMPTS, pooling="mean", normalize=False, layer=layer)
        for states, output in zip(wanted, outputs, strict=True):
            close(output.embedding, states[layer].mean(0))


@pytest.mark.parametrize("layer", [-6, 5, 100])
def test_a_layer_that_is_not_there_is_refused(make: MakeEngine, layer: int) -> None:
    with pytest.raises(ParameterError, match=r"numbered 0 \(the embeddings\) to 4"):
        make().embed([[5]], layer=layer)


def test_states_of_each_token_are_no_single_vector(make: MakeEngine) -> None:
    with pytest.raises(ParameterError, match="hidden_states"):
        make().embed([[5]], pooling="none")
