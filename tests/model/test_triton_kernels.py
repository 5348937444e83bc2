"""The Triton kernels against plain torch: on a GPU, or interpreted on a CPU.

Triton has to be told before it is imported: run this file with TRITON_INTERPRET=1.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import ParameterError
from model.kernels import Kernels, PlainKernels, choose, fp8, triton
from model.kv_cache import KVCache

from .helpers import config_of, oracle

PLAIN = PlainKernels()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    pytest.importorskip("triton")
    if DEVICE.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs CUDA, or TRITON_INTERPRET=1 in the environment")
    return choose("triton", DEVICE, torch.bfloat16)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(DEVICE, dtype)


def assert_close(got: Tensor, want: Tensor) -> None:
    """Equal but for sums in another order, and the interpreter, which rounds towards zero."""
    assert got.dtype == want.dtype
    limit = 1e-5 if want.dtype == torch.float32 else 0.02
    torch.testing.assert_close(got, want, rtol=limit, atol=limit * float(want.abs().mean()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 48), (5, 64), (2, 2304)])
def test_norms(kernels: Kernels, rows: int, size: int, dtype: torch.dtype) -> None:
    x = 30 * normal(rows, size + 8, dtype=dtype)
    gain, branch_gain = (1 + 0.3 * normal(size, seed=s) for s in (2, 3))
    apart = x[:, 8:]  # rows that don't follow each other
    assert_close(kernels.rms_norm(apart, gain, 1e-6), PLAIN.rms_norm(apart, gain, 1e-6))
    x, branch = apart.contiguous(), normal(rows, size, dtype=dtype, seed=1)
    want = PLAIN.add_norm(x, branch, branch_gain, gain, 1e-6)
    got = kernels.add_norm(x.clone(), branch, branch_gain, gain, 1e-6)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 96, 1030])
def test_gated(kernels: Kernels, width: int, dtype: torch.dtype) -> None:
    # Gates up to 40: both tails.
    weight, x = 10 * normal(2 * width, 16, dtype=dtype), normal(3, 16, dtype=dtype, seed=1)
    assert_close(kernels.gated(weight, "none")(x), PLAIN.gated(weight, "none")(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cap", [None, 5.0])
def test_vocabulary(kernels: Kernels, cap: float | None, dtype: torch.dtype) -> None:
    weight, x = normal(520, 8, dtype=dtype), 3 * normal(4, 8, dtype=dtype, seed=1)
    ours, plain = kernels.token_table(weight), PLAIN.token_table(weight)
    ids = torch.tensor([0, 519, 7], device=DEVICE)
    assert torch.equal(ours.embed(ids, 2.5), plain.embed(ids, 2.5))
    assert_close(ours.project(x, cap), plain.project(x, cap))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [20, 32])
def test_rotate_and_store(kernels: Kernels, head_dim: int, dtype: torch.dtype) -> None:
    config = config_of(oracle(head_dim=head_dim, num_hidden_layers=2))
    kv_heads, heads, rows = config.num_key_value_heads, config.num_attention_heads, 5
    qkv = normal(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    angle = normal(rows, 1, head_dim // 2, seed=1)
    slots = torch.randperm(48)[:rows].to(DEVICE)
    exact = rotated(PLAIN, config, qkv.float(), angle, slots)
    for got, want in zip(rotated(kernels, config, qkv, angle, slots), exact, strict=True):
        assert_close(got, want.to(dtype))


def rotated(
    kernels: Kernels, config: ModelConfig, qkv: Tensor, angle: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    cache = KVCache(config, 3, 16, config.num_key_value_heads, qkv.dtype, DEVICE, clear=True)
    q = kernels.rotate_and_store(qkv.clone(), (angle.cos(), angle.sin()), cache, 1, slots)
    keys, values = (pages.flatten(0, 1) for pages in cache.layer(1))
    return q, keys, values


@pytest.mark.parametrize("dtype", DTYPES)
def test_fp8_rounds_as_plain_torch_does(kernels: Kernels, dtype: torch.dtype) -> None:
    del kernels
    from model.kernels.triton.kernels import quantize_fp8  # noqa: PLC0415 - needs Triton

    x = 20 * normal(6, 100, dtype=dtype)
    x[1] = 0
    x[2, 3] = 1e4  # the rest of its row is close to nothing
    got, want = quantize_fp8(x), fp8.quantize(x)
    torch.testing.assert_close(got.scale, want.scale)
    # The interpreter loses the carry of a mantissa that rounds up to the next power of two.
    bound = 0.002 if x.is_cuda else 0.05
    assert float((got.values.float() != want.values.float()).float().mean()) < bound
    assert bool(got.values.float().isfinite().all())


def test_triton_is_refused_where_it_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ParameterError, match=r"kernels='triton': .* on CUDA, not on cpu; use"):
        choose("triton", torch.device("cpu"), torch.bfloat16)

    def absent() -> Any:
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(triton, "load", absent)
    cuda = torch.device("cuda")
    with pytest.raises(ParameterError, match="No module named 'triton'"):
        choose("triton", cuda, torch.bfloat16)
    assert choose("auto", cuda, torch.bfloat16).name == "plain"
