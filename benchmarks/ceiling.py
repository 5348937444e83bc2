"""How fast the machine's matmuls are at best: what an engine's share is a share of.

    python benchmarks/ceiling.py --threads 2

y = x W^T with 512 rows, k = 2304 and n = 9216 (Gemma 2 2B's largest), over weights that together
exceed every cache, as a model's do; the best of seven rounds, since a ceiling is what the machine
does undisturbed. bfloat16 and float32: oneDNN's linear on prepacked weights. int8: oneDNN's
quantized linear, weights prepacked with a scale per channel, activations quantized beforehand.
Prints a JSON object: GFLOP/s (int8: Gop/s) of each, null where torch lacks it.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

ROWS, K, N = 512, 2304, 9216
POOL_BYTES = 340 << 20
ROUNDS = 7


def dense(dtype: torch.dtype, pool: int) -> Iterator[Callable[[], Any]]:
    """Yield a call for each weight of the pool."""
    mkldnn = torch.ops.mkldnn
    linear = mkldnn._linear_pointwise  # noqa: SLF001 - what torch.compile emits on CPUs
    x = torch.randn(ROWS, K).to(dtype)
    for _ in range(pool):
        weight = torch.randn(N, K).to(dtype)
        packed = mkldnn._reorder_linear_weight(weight, ROWS)  # noqa: SLF001 - no other way to it
        yield lambda w=packed: linear(x, w, None, "none", [], "")


def quantized(pool: int) -> Iterator[Callable[[], Any]]:
    """Yield a call for each int8 weight of the pool."""
    x = torch.randint(0, 256, (ROWS, K), dtype=torch.uint8)
    scales, zeros = torch.full((N,), 0.01), torch.zeros(N, dtype=torch.int64)
    out = (None, 1.0, 0, torch.bfloat16, "none", [], "")
    for _ in range(pool):
        weight = torch.randint(-127, 128, (N, K), dtype=torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(weight, [ROWS, K])
        yield lambda w=packed: torch.ops.onednn.qlinear_pointwise(
            x, 0.02, 128, w, scales, zeros, *out
        )


def best_rate(calls: list[Callable[[], Any]]) -> float:
    """Return GFLOP/s of the best round over all weights."""
    for call in calls:
        call()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for call in calls:
            call()
        rounds.append(time.perf_counter() - start)
    return 2e-9 * ROWS * K * N * len(calls) / min(rounds)


def ceilings(pool_bytes: int = POOL_BYTES) -> dict[str, float | None]:
    """Measure each precision in turn, with torch's present number of threads."""
    kinds: dict[str, Callable[[], Iterator[Callable[[], Any]]]] = {
        "bfloat16": lambda: dense(torch.bfloat16, _pool(2, pool_bytes)),
        "float32": lambda: dense(torch.float32, _pool(4, pool_bytes)),
        "int8": lambda: quantized(_pool(1, pool_bytes)),
    }
    rates: dict[str, float | None] = {}
    with torch.inference_mode():
        for name, kind in kinds.items():
            try:
                rates[name] = best_rate(list(kind()))
            except (RuntimeError, AttributeError):  # a build without oneDNN, or for another CPU
                rates[name] = None
    return rates


def _pool(width: int, pool_bytes: int) -> int:
    return max(1, pool_bytes // (width * N * K))


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(ceilings()))


if __name__ == "__main__":
    main()
