"""What an answer is depends on its prompt and its adapter, and on nothing else in the engine."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import Engine, EngineConfig, ParameterError, SamplingParams
from model.batch import BASE, PackedBatch, Segment, segments_of
from model.engine.graphs import DecodeGraphs
from model.kernels import GatedLinear, NativeKernels
from tests.model.helpers import random_ids
from tests.model.native import needs_native

from .adapters import SHAPES, base, save_adapter
from .conftest import MakeEngine

Answer = tuple[tuple[int, ...], float]

STEM = random_ids(60, seed=7)
PROMPTS = [
    *([*STEM[:50], 3 + n, *random_ids(1 + n % 5, seed=n)] for n in range(8)),
    *(random_ids(1 + 5 * n, seed=50 + n) for n in range(6)),
]
NAMES = [None, *SHAPES]
PAIRS = [(prompt, NAMES[n % len(NAMES)]) for n, prompt in enumerate([*PROMPTS, *PROMPTS[:7]])]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, and adapters of it."""
    root = tmp_path_factory.mktemp("company")
    reference = base(head_dim=32, num_attention_heads=4)
    reference.save_pretrained(root / "base")
    for seed, (name, settings) in enumerate(SHAPES.items()):
        save_adapter(reference, root / name, seed=seed, **settings)
    return {"base": root / "base", **{name: root / name for name in SHAPES}}


def adapters_of(folders: dict[str, Path]) -> dict[str, str]:
    return {name: str(folders[name]) for name in SHAPES}


def sampling(number: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=4 + number % 5, temperature=1.0, seed=number, ignore_eos=True, logprobs=0
    )


def answers(engine: Engine, order: Sequence[int], at_once: int) -> dict[int, Answer]:
    found: dict[int, Answer] = {}
    for start in range(0, len(order), at_once):
        numbers = order[start : start + at_once]
        prompts, names = [PAIRS[n][0] for n in numbers], [PAIRS[n][1] for n in numbers]
        outputs = engine.generate(prompts, [sampling(n) for n in numbers], adapter=names)
        for number, output in zip(numbers, outputs, strict=True):
            found[number] = (output.token_ids, output.cumulative_logprob)
    return found


@needs_native
def test_answers_have_the_same_bits_in_any_company(
    make: MakeEngine, folders: dict[str, Path]
) -> None:
    def engine(**changes: Any) -> Engine:
        kernels = {"dtype": "bfloat16", "kernels": "native", "attention": "native"}
        return make(folders["base"], adapters=adapters_of(folders), **kernels, **changes)

    numbers = list(range(len(PAIRS)))
    shuffled = random.Random(1).sample(numbers, len(numbers))
    alone = answers(engine(prefix_caching=False, max_batch_tokens=256), numbers, 1)
    for company in (
        answers(engine(), numbers, len(numbers)),
        answers(engine(max_batch_tokens=17, threads=2), shuffled, 11),
        answers(engine(schedule="fcfs", max_sequences=3), shuffled, len(numbers)),
        answers(engine(overlap=True), shuffled, len(numbers)),
    ):
        assert company == alone
    # The model itself answers as it does in an engine without adapters.
    plain = make(folders["base"], dtype="bfloat16", kernels="native", attention="native")
    own = [number for number in numbers if PAIRS[number][1] is None]
    outputs = plain.generate([PAIRS[n][0] for n in own], [sampling(n) for n in own])
    assert [(o.token_ids, o.cumulative_logprob) for o in outputs] == [alone[n] for n in own]


def test_prompts_of_different_adapters_share_no_pages(
    make: MakeEngine, folders: dict[str, Path]
) -> None:
    engine = make(folders["base"], adapters=adapters_of(folders))
    params = SamplingParams(max_tokens=1)
    for name in NAMES:
        engine.generate([STEM], params, adapter=name)
    assert engine.stats.prefix_hit_tokens == 0
    engine.generate([STEM], params, adapter="attention")
    assert engine.stats.prefix_hit_tokens > 0


def test_several_answers_and_labels_keep_their_adapter(
    make: MakeEngine, folders: dict[str, Path]
) -> None:
    engine = make(folders["base"], adapters=adapters_of(folders))
    alone = make(folders["base"], adapter=str(folders["everywhere"]))
    params = SamplingParams(max_tokens=5, n=3, temperature=1.0, seed=4, ignore_eos=True)
    mixed = engine.generate([STEM] * 3, params, adapter=[None, "everywhere", "attention"])
    (wanted,) = alone.generate([STEM], params)
    tokens = [completion.token_ids for completion in mixed[1].completions]
    assert tokens == [completion.token_ids for completion in wanted.completions]


def test_an_adapter_that_is_not_there_is_refused(
    make: MakeEngine, folders: dict[str, Path]
) -> None:
    engine = make(folders["base"], adapters={"one": str(folders["attention"])})
    with pytest.raises(ParameterError, match="there is no adapter 'two'; this engine has one"):
        engine.generate([[5]], adapter="two")
    with pytest.raises(ParameterError, match="1 prompts but 2 adapters"):
        engine.generate([[5]], adapter=["one", None])
    assert not engine.has_work


@pytest.mark.slow
def test_ranks_compute_what_one_does(make: MakeEngine, folders: dict[str, Path]) -> None:
    numbers = list(range(0, len(PAIRS), 2))
    settings = {"adapters": adapters_of(folders), "adapter": str(folders["patterns"])}
    one = answers(make(folders["base"], **settings), numbers, len(numbers))
    two = answers(make(folders["base"], tensor_parallel=2, **settings), numbers, len(numbers))
    for number in numbers:
        assert two[number][0] == one[number][0]
        assert two[number][1] == pytest.approx(one[number][1], abs=1e-4)


def test_memory_of_adapters_is_accounted_for(folders: dict[str, Path]) -> None:
    def weight_bytes(**settings: Any) -> int:
        config = EngineConfig(checkpoint=str(folders["base"]), kv_cache_bytes=1 << 20, **settings)
        with Engine(config) as engine:
            return engine.memory_report().weight_bytes

    plain, more = weight_bytes(), weight_bytes(adapters={"a": str(folders["feed-forward"])})
    # Rank 3 is filled up to 8; the base is float32.
    hidden, inner, layers = 48, 96, 4
    assert more - plain == 4 * 8 * layers * 2 * (hidden + inner)


@needs_native
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("width", [96, 40])
def test_gated_weights_give_their_halves(quantization: Any, width: int) -> None:
    kernels = NativeKernels()
    weight, x = torch.randn(2 * width, 64).bfloat16(), torch.randn(9, 64).bfloat16()
    form = kernels.gated(weight, quantization)
    assert isinstance(form, GatedLinear)
    halves = form.halves(x)
    assert torch.equal(halves, kernels.linear(weight, None, quantization)(x))
    gate, up = halves.double().chunk(2, dim=-1)
    wanted = torch.nn.functional.gelu(gate, approximate="tanh") * up
    assert torch.allclose(form.product(halves).double(), wanted, rtol=1 / 128, atol=1e-6)
    assert torch.allclose(form.product(halves).float(), form(x).float(), rtol=0.05, atol=0.1)


def test_segments_are_runs_of_rows() -> None:
    assert segments_of([BASE, BASE, 0, 2, 2], [3, 1, 2, 0, 5]) == (
        Segment(0, 4, 6),
        Segment(2, 6, 11),
    )
    assert segments_of([1, 1], [0, 0]) == ()


def test_steps_with_adapters_are_not_replayed() -> None:
    graphs = object.__new__(DecodeGraphs)
    graphs._failed = False
    ones = np.ones(2, dtype=np.int64)
    batch = PackedBatch(ones, ones, ones, ones, {})
    assert graphs.takes(batch)
    assert not graphs.takes(PackedBatch(ones, ones, ones, ones, {}, adapters=(BASE, 0)))
