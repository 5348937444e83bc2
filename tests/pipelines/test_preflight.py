import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from model import Engine, EngineConfig
from model.config import ModelConfig
from model.errors import GemmarayError, ParameterError
from model.params import WeightFormat
from model.quantize import quantize_checkpoint
from model.tokenizer import load_tokenizer
from pipelines import JobError, PlanMismatch
from pipelines.estimate import ASSUMED_FLOPS, Work, flops, reached_by
from pipelines.footprint import cache_room, memory_here, weigh
from pipelines.inputs import InputFile
from pipelines.job import Resources
from pipelines.local_store import LocalStore
from pipelines.placement import place
from pipelines.plan import PLAN_NAME, Plan
from pipelines.preflight import Hardware, preflight
from pipelines.sample import REACH, STRETCH, draw

from .data import CAUSAL_LM, spec, write
from .outputs import UNIT_S, make_output

GEMMA_2 = {
    "2b": ((2304, 9216, 26, 8, 4), 2_614_341_888, 26 * 2 * 4 * 256 * 2),
    "9b": ((3584, 14336, 42, 16, 8), 9_241_705_984, 42 * 2 * 8 * 256 * 2),
}
GIB = 1 << 30


def gemma(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> ModelConfig:
    values = {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "vocab_size": 256_000,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 256,
        "torch_dtype": "bfloat16",
    }
    return ModelConfig.from_dict(values, source="config.json")


@pytest.mark.parametrize("name", GEMMA_2)
def test_published_models_weigh_what_is_published(name: str) -> None:
    shape, parameters, token_bytes = GEMMA_2[name]
    config = gemma(*shape)
    weights = weigh(config, "bfloat16", "none", 1)
    assert weights.parameters == parameters
    assert weights.rank_bytes == 2 * parameters
    embedding = 256_000 * shape[0]
    norms = shape[0] * (4 * shape[2] + 1)
    assert weights.per_token == parameters - embedding - norms
    assert weights.per_draw == embedding

    halves = weigh(config, "bfloat16", "none", 2)
    assert halves.parameters == parameters
    assert halves.rank_bytes == pytest.approx(parameters + norms, rel=1e-3)
    eight = weigh(config, "bfloat16", "int8", 1)
    assert eight.rank_bytes == pytest.approx(parameters + embedding + norms, rel=1e-2)

    placement = place(Resources(device="cuda"), [{"GPU": 1.0, "CPU": 8.0}])
    room = cache_room(config, "bfloat16", Resources(), placement, weights, 80 * GIB, (1024, 8192))
    assert room.token_bytes == token_bytes
    assert room.total_bytes == pytest.approx(0.85 * (80 * GIB - 2 * parameters), rel=1e-3)
    # 8192 tokens fill all full layers, and the window and a chunk of the others.
    least = room.pages * room.page_tokens * token_bytes // 2
    assert room.by_length[8192] >= least // (8192 * token_bytes)
    assert room.by_length[1024] == min(256, room.pages // (2 * (-(-1024 // room.page_tokens))))


@pytest.mark.parametrize(("shape", "ranks"), [((2304, 9216, 26, 8, 4), 3)])
def test_a_model_that_cannot_be_cut_so_is_refused(shape: tuple[int, ...], ranks: int) -> None:
    with pytest.raises(ParameterError, match="tensor_parallel=3"):
        weigh(gemma(*shape), "bfloat16", "none", ranks)


def test_weights_that_do_not_fit_are_refused() -> None:
    config = gemma(*GEMMA_2["9b"][0])
    weights = weigh(config, "bfloat16", "none", 1)
    placement = place(Resources(device="cuda"), [{"GPU": 1.0, "CPU": 8.0}])
    with pytest.raises(JobError, match=r"the weights take 17\.2 GiB, and there are 16\.0 GiB"):
        cache_room(config, "bfloat16", Resources(), placement, weights, 16 * GIB, ())


def test_the_cache_is_what_an_engine_makes_of_it() -> None:
    settings: dict[str, Any] = {"kv_cache_bytes": 4 << 20, "max_model_len": 512, "threads": 1}
    resources = Resources(**settings)
    config = ModelConfig.from_folder(CAUSAL_LM)
    dtype = config.compute_dtype("auto")
    weights = weigh(config, dtype, "none", 1)
    placement = place(resources, [{"CPU": 2.0, "memory": 8.0 * GIB}])
    room = cache_room(config, dtype, resources, placement, weights, 8 * GIB, (64, 512))
    with Engine(EngineConfig(checkpoint=str(CAUSAL_LM), **settings)) as engine:
        report = engine.memory_report((64, 512))
    assert (room.pages, room.page_tokens) == (report.pages, report.page_tokens)
    assert room.page_bytes == report.page_bytes
    assert room.by_length == {n: min(256, count) for n, count in report.sequences.items()}
    assert weights.rank_bytes == pytest.approx(report.weight_bytes, rel=0.05)
    with safe_open(CAUSAL_LM / "model.safetensors", framework="numpy") as file:
        names = list(file.keys())
        stored = sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)
    assert weights.parameters == stored


@pytest.mark.parametrize("quantization", ["int8", "int4", "bnb-int8", "bnb-nf4"])
def test_quantized_weights_weigh_what_an_engine_holds(
    tmp_path: Path, quantization: WeightFormat
) -> None:
    config = ModelConfig.from_folder(CAUSAL_LM)
    weights = weigh(config, "bfloat16", quantization, 1)
    settings: dict[str, Any] = {"kv_cache_bytes": 4 << 20, "max_model_len": 512, "threads": 1}
    settings["quantization"] = quantization
    with Engine(EngineConfig(checkpoint=str(CAUSAL_LM), **settings)) as engine:
        assert weights.rank_bytes == pytest.approx(engine.memory_report().weight_bytes, rel=0.02)
    quantize_checkpoint(CAUSAL_LM, tmp_path / "q", quantization)
    stored = ModelConfig.from_folder(tmp_path / "q")
    assert weigh(stored, "bfloat16", quantization, 1) == weights
    size = (tmp_path / "q" / "model.safetensors").stat().st_size
    assert size == pytest.approx(weights.rank_bytes, rel=0.02)


def test_what_the_device_can_not_do_is_refused_beforehand(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", {"text": ["a", "b"]})
    settings = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out")}
    job = spec(**settings, resources={"quantization": "fp8", "device": "cpu"})
    with pytest.raises(GemmarayError, match=r"quantization='fp8' needs a CUDA device .*, not cpu"):
        preflight(job)


def plan_of(groups: Sequence[Sequence[int]], limit: int | None = None) -> Plan:
    files = [
        InputFile(f"f{i}", f"/f{i}", 1, "v", "d", tuple(sizes)) for i, sizes in enumerate(groups)
    ]
    rows, left = [], limit if limit is not None else 10**12
    for file in files:
        rows.append(min(file.rows, left))
        left -= rows[-1]
    return Plan({}, tuple(files), tuple(rows), 256, 1)


@given(
    st.lists(st.lists(st.integers(1, 30_000), max_size=3), min_size=1, max_size=4),
    st.none() | st.integers(1, 50_000),
    st.integers(0, 9),
)
def test_stretches_of_a_sample_lie_within_the_job_and_apart(
    groups: list[list[int]], limit: int | None, seed: int
) -> None:
    plan = plan_of(groups, limit)
    stretches = draw(plan, 512, random.Random(seed))
    assert stretches == draw(plan, 512, random.Random(seed))
    places = [(unit.file, row) for unit in stretches for row in range(unit.first, unit.last)]
    assert len(set(places)) == len(places)
    assert all(0 <= row < plan.rows[file] for file, row in places)
    if plan.total_rows <= 512:
        assert len(places) == plan.total_rows
    else:
        assert 0 < len(places) <= 512
    for unit in stretches:
        ends = np.cumsum(plan.files[unit.file].groups)
        start = max((int(end) for end in ends if end <= unit.first), default=0)
        assert unit.last - start <= REACH + STRETCH


def test_a_sample_is_spread_over_all_files() -> None:
    plan = plan_of([[1000], [1000], [1000, 1000]])
    touched = {unit.file for unit in draw(plan, 256, random.Random(1))}
    assert touched == {0, 1, 2}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    texts = [f"libfoo{i}: library number {i} " * (1 + i % 4) for i in range(90)]
    texts[7], texts[50] = "word " * 9000, ""
    write(tmp_path / "in" / "a.parquet", {"text": texts[:60], "id": range(60)}, row_group_size=25)
    write(tmp_path / "in" / "b.parquet", {"text": texts[60:], "id": range(60, 90)})
    return {
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "prompt": None,
        "prompt_column": "text",
        "chat": "raw",
        "unit_rows": 16,
        "tasks": [{"generate": {"max_tokens": 12}}],
        "resources": {"replicas": 1, "threads": 1},
        "texts": texts,
    }


def test_a_preflight_counts_what_is_there(job: dict[str, Any], tmp_path: Path) -> None:
    texts = job.pop("texts")
    found = preflight(spec(**job), hardware=Hardware(gpus=0))
    files = sorted((tmp_path / "in").iterdir())
    assert found.file_bytes == sum(path.stat().st_size for path in files)
    assert (found.row_groups, found.units, found.plan.total_rows) == (3 + 1, 4 + 2, 90)

    tokenizer = load_tokenizer(CAUSAL_LM)
    assert tokenizer is not None
    counts = [len(tokenizer.encode_text(text)) for text in texts if text]
    longest = max(counts)
    good = [count for count in counts if count != longest]
    sample = found.sample
    assert (sample.rows, len(sample.good)) == (90, 88)
    assert (sample.prompts.total, sample.prompts.longest) == (sum(counts), longest)
    assert sample.good.total == sum(good)
    assert {(bad.count, bad.over_long, bad.example) for bad in sample.bad} == {
        (1, True, "a.parquet row 7"),
        (1, False, "a.parquet row 50"),
    }
    assert found.work == Work(88, sum(good), 88 * 12, at_most=True)
    assert found.time.basis == "bound"
    expected = flops(found.work, found.weights)
    cores = found.time.tokens_per_s / found.work.tokens * expected / ASSUMED_FLOPS["cpu"]
    assert cores == pytest.approx(round(cores))
    assert found.time.gpu_hours == 0
    assert found.resumed is None
    assert not (tmp_path / "out").exists()


def test_a_rate_that_is_given_decides_the_time(job: dict[str, Any]) -> None:
    del job["texts"]
    job["resources"] = {"tensor_parallel": 2, "page_size": 16}
    hardware = Hardware(gpus=8, memory=24 * GIB)
    found = preflight(spec(**job), hardware=hardware, tokens_per_s=100.0)
    assert found.time.basis == "given"
    assert found.time.seconds == pytest.approx(found.work.tokens / 100)
    assert found.time.replicas == 4
    assert found.time.gpu_hours == pytest.approx(8 * found.time.seconds / 3600)
    assert found.cache is not None
    assert found.memory == 24 * GIB


def test_a_job_like_this_one_tells_how_fast_it_will_be(job: dict[str, Any], tmp_path: Path) -> None:
    del job["texts"]
    like = make_output(tmp_path / "like")
    tables = [like.table(unit) for unit in like.units]
    tokens = [
        sum(filter(None, table[name].to_pylist()))
        for name in ("prompt_tokens", "completion_tokens")
        for table in tables
    ]
    # Seven units on two replicas, ten seconds each; the last one has no rows.
    reached = reached_by(like.url)
    assert reached.tokens_per_replica_s == pytest.approx(sum(tokens) / (6 * UNIT_S))
    found = preflight(spec(**job), hardware=Hardware(gpus=0), like=like.url)
    assert found.time.basis == "like"
    assert found.time.tokens_per_s == pytest.approx(reached.tokens_per_replica_s)
    assert not found.work.at_most
    assert any("another checkpoint" in note for note in found.notes)


def test_a_job_that_is_there_already_is_joined_or_refused(
    job: dict[str, Any], tmp_path: Path
) -> None:
    del job["texts"]
    first = preflight(spec(**job), hardware=Hardware(gpus=0))
    LocalStore(str(tmp_path / "out")).put_if_absent(PLAN_NAME, first.plan.to_json())
    again = preflight(spec(**job), hardware=Hardware(gpus=0))
    assert (again.resumed, again.plan.id) == (0, first.plan.id)
    with pytest.raises(PlanMismatch, match=r"tasks\.generate\.max_tokens: was 12, is 13"):
        preflight(
            spec(**{**job, "tasks": [{"generate": {"max_tokens": 13}}]}), hardware=Hardware(gpus=0)
        )


def test_all_that_is_wrong_is_said_at_once(job: dict[str, Any], tmp_path: Path) -> None:
    del job["texts"]
    (tmp_path / "in" / "bad.parquet").write_bytes(b"nonsense")
    job |= {"tasks": ["classify"], "resources": {"replicas": 4000}}
    with pytest.raises(JobError) as error:
        preflight(spec(**job), hardware=Hardware(gpus=0), like=str(tmp_path))
    message = str(error.value)
    assert "classify needs a sequence_classification checkpoint" in message
    assert "bad.parquet" in message
    assert "do not fit on a node" in message
    assert "holds no job" in message


def test_memory_is_that_of_a_device_which_is_here() -> None:
    here = memory_here("cpu")
    assert here is not None
    assert here > 1 << 20
