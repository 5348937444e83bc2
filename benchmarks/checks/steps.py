"""Single steps of a real shape beside what the device can do: decodes and prompts."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.report import gemm_gflop
from model.batch import GroupLayout, PackedBatch
from model.config import ModelConfig
from model.engine.runner import RankSetup, Runner
from model.errors import ParameterError
from model.parallel import TensorParallel

from .dummy import dummy_checkpoint
from .environment import Details, Setup, significant

VARIANTS: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "flex": {"attention": "flex"},
    "no graphs": {"cuda_graphs": False},
    "plain kernels": {"kernels": "plain"},
    "fp8": {"quantization": "fp8"},
    "int4": {"quantization": "int4"},
    "bnb-nf4": {"quantization": "bnb-nf4"},
}

# A CPU shows that they run.
FEW = ("as chosen", "fp8")


def decode(setup: Setup) -> Details:
    """Time decode steps, with the share of the copy bandwidth that their bytes take up.

    The bytes are those that a step must read: all weights, and the keys and values that are seen.
    """
    counts, keys = ((1, 32, 256), 768) if setup.on_cuda else ((1, 4), 48)
    bandwidth = setup.copy_bytes_per_s()
    details: Details = {"copy_gb_per_s": significant(1e-9 * bandwidth), "keys": keys}
    for name, changes in _variants(setup):
        details[name] = _tried(
            setup,
            changes,
            lambda runner: {
                "attention": runner.backend.name,
                **{str(n): _decode(setup, runner, n, keys, bandwidth) for n in counts},
            },
        )
    return details


def prefill(setup: Setup) -> Details:
    """Time a step of prompts, with the share of the matmul rate that its matmuls take up.

    Attention is not counted as work, though it is in the time.
    """
    count, length = (8, 1024) if setup.on_cuda else (2, 96)
    rate = setup.matmul_flops_per_s()
    details: Details = {"matmul_tflops": significant(1e-12 * rate), "prompts": [count, length]}
    for name, changes in _variants(setup):
        if name != "no graphs":
            details[name] = _tried(
                setup, changes, lambda runner: _prefill(setup, runner, count, length, rate)
            )
    return details


def _variants(setup: Setup) -> list[tuple[str, dict[str, Any]]]:
    return [(name, changes) for name, changes in VARIANTS.items() if setup.on_cuda or name in FEW]


def _tried(setup: Setup, changes: dict[str, Any], measure: Callable[[Runner], Details]) -> Details:
    """Measure with a runner of the shape, alone on the device; or say why it is refused."""
    with dummy_checkpoint(setup.shape) as folder:
        settings: dict[str, Any] = {
            "folder": folder,
            "config": ModelConfig.from_folder(folder),
            "dtype": "bfloat16",
            "device_type": setup.kind,
            "attention": "auto",
            "kernels": "auto",
            "quantization": "none",
            "page_size": None,
            "threads": None,
        }
        try:
            return measure(Runner(RankSetup(**settings | changes), TensorParallel.single()))
        except ParameterError as error:
            return {"refused": str(error)}
        finally:
            setup.free()


def _prefill(setup: Setup, runner: Runner, count: int, length: int, rate: float) -> Details:
    runner.allocate(2 * count * -(-length // runner.page_size))
    batch = _batch(runner, count, queries=length, keys=length)
    seconds = setup.seconds(lambda: runner.run(batch))
    flop = 1e9 * gemm_gflop(runner.config, count * length, 0)
    return {
        "ms": significant(1e3 * seconds),
        "tokens_per_s": round(count * length / seconds),
        "share": significant(flop / seconds / rate),
    }


def _decode(setup: Setup, runner: Runner, count: int, keys: int, bandwidth: float) -> Details:
    runner.allocate(2 * count * -(-keys // runner.page_size))
    batch = _batch(runner, count, queries=1, keys=keys)
    seconds = setup.seconds(lambda: runner.run(batch))
    config = runner.config
    seen = sum(
        min(keys, config.sliding_window) if kind == "sliding_attention" else keys
        for kind in config.layer_types
    )
    kv_bytes = count * seen * 2 * config.num_key_value_heads * config.head_dim * 2
    read = runner.model.weight_bytes + kv_bytes
    return {
        "ms": significant(1e3 * seconds),
        "tokens_per_s": round(count / seconds),
        "share": significant(read / seconds / bandwidth),
    }


def _batch(runner: Runner, count: int, *, queries: int, keys: int) -> PackedBatch:
    """Lay out `count` sequences alike, the last `queries` of their `keys` tokens new."""
    size = runner.page_size
    pages = -(-keys // size)
    positions = np.arange(keys - queries, keys)
    groups = {}
    for number, kind in enumerate(dict.fromkeys(runner.config.layer_types)):
        tables = np.arange(count * pages).reshape(count, pages) + number * count * pages
        slots = tables[:, positions // size] * size + positions % size
        first_key = np.zeros(count, dtype=np.int64)
        groups[kind] = GroupLayout(slots.flatten(), tuple(tables), first_key)
    ids = np.random.default_rng(0).integers(400, 4000, count * queries)
    return PackedBatch(
        token_ids=ids,
        positions=np.tile(positions, count),
        query_lens=np.full(count, queries),
        key_lens=np.full(count, keys),
        groups=groups,
        logit_rows=np.arange(1, count + 1) * queries - 1,
    )
