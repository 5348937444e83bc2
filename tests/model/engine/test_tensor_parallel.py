"""Engines of several ranks answer as one of a single rank does, in float32."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from model import Engine, EngineConfig, SamplingParams
from tests.model.helpers import oracle, random_ids

from .conftest import Children, MakeEngine

PROMPTS = [random_ids(n, seed=n) for n in (3, 9, 17, 1)]
PARAMS = [
    SamplingParams(max_tokens=12, ignore_eos=True, **settings)
    for settings in (
        {"logprobs": 5},
        {"temperature": 1.0, "seed": 1, "logprobs": 3},
        {"temperature": 0.7, "top_k": 20, "seed": 2, "n": 2},
        {"temperature": 1.5, "top_p": 0.9, "min_p": 0.01, "seed": 3, "logprobs": 0},
        {"repetition_penalty": 1.3, "logit_bias": {7: 5.0, 101: 9.0}},
        {"temperature": 1.0, "seed": 5, "presence_penalty": 1.0, "min_tokens": 12},
    )
]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8 query heads and 4 KV heads, whose vocabulary no number of ranks divides."""
    folder = tmp_path_factory.mktemp("checkpoints") / "wide"
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    oracle(seed=9, qk_scale=2.0, **heads).save_pretrained(folder)
    return folder


@pytest.fixture
def wide_engine(make: MakeEngine, folders: dict[str, Path], wide: Path) -> Iterator[MakeEngine]:
    folders["wide"] = wide
    yield lambda **settings: make("wide", **settings)
    del folders["wide"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 8])
def test_every_answer_is_that_of_one_rank(size: int, wide_engine: MakeEngine) -> None:
    # Eight processes on two cores take their time.
    distinct = PROMPTS if size < 8 else PROMPTS[:2]
    prompts = [prompt for prompt in distinct for _ in PARAMS]
    params = PARAMS * len(distinct)
    one, ranks = wide_engine(), wide_engine(tensor_parallel=size)
    for alone, together in zip(
        one.generate(prompts, params), ranks.generate(prompts, params), strict=True
    ):
        for a, b in zip(alone.completions, together.completions, strict=True):
            assert a.token_ids == b.token_ids
            assert a.cumulative_logprob == pytest.approx(b.cumulative_logprob, abs=1e-4)
            for ours, theirs in zip(a.logprobs or (), b.logprobs or (), strict=True):
                assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)
                assert [i for i, _ in ours.top] == [i for i, _ in theirs.top]
                found = torch.tensor([[p for _, p in top] for top in (ours.top, theirs.top)])
                assert torch.allclose(found[0], found[1], atol=1e-5, rtol=0)
    for alone, together in zip(one.logprobs(distinct), ranks.logprobs(distinct), strict=True):
        assert alone.logprobs[1:] == pytest.approx(together.logprobs[1:], abs=1e-5)


@pytest.mark.slow
def test_ranks_listen_on_loopback_and_engines_do_not_meet(
    wide_engine: MakeEngine, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name that leads to an address beyond this machine would be gloo's choice otherwise.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    before = {connection.laddr for connection in psutil.Process().net_connections("inet")}
    engines = [wide_engine(tensor_parallel=2) for _ in range(2)]
    answers = [engine.generate(PROMPTS, PARAMS[0]) for engine in engines]
    assert answers[0] == answers[1]
    processes = [psutil.Process(), *map(psutil.Process, children())]
    ports = [
        connection.laddr
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr not in before
    ]
    assert len(ports) >= 4
    assert {port.ip for port in ports} == {"127.0.0.1"}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_ranks_on_cuda_answer_as_one_does(wide: Path) -> None:
    config = EngineConfig(checkpoint=os.fspath(wide), dtype="float32", attention="reference")
    with Engine(config) as one:
        alone = [one.generate(PROMPTS, params) for params in PARAMS]
    with Engine(config.model_copy(update={"tensor_parallel": 2})) as ranks:
        together = [ranks.generate(PROMPTS, params) for params in PARAMS]
    for ones, others in zip(alone, together, strict=True):
        for a, b in zip(ones, others, strict=True):
            assert [c.token_ids for c in a.completions] == [c.token_ids for c in b.completions]
