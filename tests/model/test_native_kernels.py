"""The native kernels against plain torch in float32, which knows nothing of panels."""

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import ParameterError
from model.kernels import Kernels, NativeKernels, PlainKernels, choose
from model.kernels.native import build
from model.kv_cache import KVCache
from model.params import Quantization

from .helpers import config_of, oracle
from .native import needs_native

CPU = torch.device("cpu")
PLAIN = PlainKernels()
BFLOAT16_ERROR = 0.004
# Of eight-bit weights and activations: two roundings of about 1 / 127 of the largest magnitude.
INT8_ERROR = 0.02


def error(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# One row more and less than the kernel computes at once (12), and more than a block of them.
ROWS = [1, 2, 11, 12, 13, 47]
# Panels of 32 columns: whole ones, a few columns of one, one and a half.
SHAPES = [(32, 16), (4, 32), (48, 64), (100, 48), (330, 272)]


@needs_native
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("width", "depth"), SHAPES)
@pytest.mark.parametrize(
    ("quantization", "bound"), [("none", BFLOAT16_ERROR), ("int8", INT8_ERROR)]
)
def test_linear(
    rows: int, width: int, depth: int, quantization: Quantization, bound: float
) -> None:
    weight, bias = normal(width, depth).bfloat16(), normal(width, seed=1).bfloat16()
    # Rows that are cut out of wider ones, as the queries of a fused projection are.
    x = normal(rows, depth + 8, seed=2).bfloat16()[:, 8:]
    want = x.float() @ weight.float().T
    kernels = NativeKernels()
    assert error(kernels.linear(weight, None, quantization)(x), want) < bound
    want += bias.float()
    assert error(kernels.linear(weight, bias, quantization)(x), want) < bound


@needs_native
@pytest.mark.parametrize("rows", [1, 13])
@pytest.mark.parametrize(("width", "depth"), [(16, 32), (7, 48), (40, 64), (160, 16)])
def test_gated(rows: int, width: int, depth: int) -> None:
    weight = (normal(2 * width, depth) / depth**0.5).bfloat16()
    x = 2 * normal(rows, depth, seed=2).bfloat16()
    want = PLAIN.gated(weight.float(), "none")(x.float())
    kernels = NativeKernels()
    assert error(kernels.gated(weight, "none")(x), want) < BFLOAT16_ERROR
    assert error(kernels.gated(weight, "int8")(x), want) < 3 * INT8_ERROR


@needs_native
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_no_rows(quantization: Quantization) -> None:
    """Fewer panels than threads are cut by rows, of which there may be none."""
    kernels, x = NativeKernels(), torch.empty(0, 64, dtype=torch.bfloat16)
    weight = normal(32, 64).bfloat16()
    assert kernels.linear(weight, None, quantization)(x).shape == (0, 32)
    assert kernels.gated(weight, quantization)(x).shape == (0, 16)


@needs_native
@pytest.mark.parametrize("rows", ROWS)
def test_native_int8_is_plain_int8(rows: int) -> None:
    weight, x = normal(96, 64).bfloat16(), normal(rows, 64, seed=1).bfloat16()
    native, plain = (k.linear(weight, None, "int8") for k in (NativeKernels(), PLAIN))
    # The integers are the same but where a value lies between two; the rest is the last rounding.
    assert error(native(x), plain(x)) < BFLOAT16_ERROR
    x[0] = 0  # no scale can be had of it
    assert not native(x)[0].any()
    assert not plain(x)[0].any()


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_int8(rows: int, dtype: torch.dtype) -> None:
    weight, bias, x = (t.to(dtype) for t in (normal(40, 64), normal(40), normal(rows, 64, seed=1)))
    want = x.float() @ weight.float().T + bias.float()
    given = x.clone()
    got = PLAIN.linear(weight, bias, "int8")(x)
    assert torch.equal(x, given)
    assert got.dtype == dtype
    assert error(got, want) < INT8_ERROR


@needs_native
@pytest.mark.parametrize(("width", "depth"), [(64, 32), (70, 48), (33, 4)])
def test_vocabulary(width: int, depth: int) -> None:
    weight = normal(width, depth).bfloat16()
    native, plain = NativeKernels().token_table(weight), PLAIN.token_table(weight)
    ids = torch.tensor([0, 31, 32, width - 1, 5])
    assert torch.equal(native.embed(ids, 3.25), plain.embed(ids, 3.25))
    x = 20 * normal(14, depth, seed=1).bfloat16()
    exact = PLAIN.token_table(weight.float())
    for cap in (None, 30.0):
        assert error(native.project(x, cap), exact.project(x.float(), cap)) < BFLOAT16_ERROR


@needs_native
@pytest.mark.parametrize("size", [16, 48, 2304])
@pytest.mark.parametrize("rows", [1, 9])
def test_norms_are_the_same_to_the_last_bit_or_nearly(rows: int, size: int) -> None:
    x, branch = (30 * normal(rows, size, seed=s).bfloat16() for s in (0, 1))
    gains = [1 + 0.3 * normal(size, seed=s) for s in (2, 3)]
    kernels = NativeKernels()
    assert_almost_equal(kernels.rms_norm(x, gains[0], 1e-6), PLAIN.rms_norm(x, gains[0], 1e-6))
    want = PLAIN.add_norm(x, branch, gains[0], gains[1], 1e-6)
    got = kernels.add_norm(x.clone(), branch, gains[0], gains[1], 1e-6)
    for g, w in zip(got, want, strict=True):
        assert_almost_equal(g, w)


def assert_almost_equal(got: Tensor, want: Tensor) -> None:
    assert float((got != want).float().mean()) < 0.01
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


@needs_native
@pytest.mark.parametrize("head_dim", [32, 256])
@pytest.mark.parametrize("rows", [1, 20])
def test_rotate_and_store(rows: int, head_dim: int) -> None:
    config = config_of(oracle(head_dim=head_dim))
    slots = torch.randperm(48)[:rows]
    kv_heads, heads = config.num_key_value_heads, config.num_attention_heads
    qkv = normal(rows, (heads + 2 * kv_heads) * head_dim).bfloat16()
    angle = normal(rows, 1, head_dim // 2, seed=1)
    exact, native = (
        rotated(kernels, config, qkv.to(dtype), angle, slots)
        for kernels, dtype in ((PLAIN, torch.float32), (NativeKernels(), torch.bfloat16))
    )
    for got, want in zip(native, exact, strict=True):
        assert error(got, want) < BFLOAT16_ERROR


def rotated(
    kernels: Kernels, config: ModelConfig, qkv: Tensor, angle: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    cache = KVCache(config, 3, 16, config.num_key_value_heads, qkv.dtype, CPU)
    q = kernels.rotate_and_store(qkv.clone(), (angle.cos(), angle.sin()), cache, 1, slots)
    keys, values = (pages.flatten(0, 1)[slots] for pages in cache.layer(1))
    return q, keys, values


@needs_native
def test_shapes_without_a_kernel_are_computed_plainly() -> None:
    kernels = NativeKernels()
    weight, x = normal(10, 6).bfloat16(), normal(3, 6, seed=1).bfloat16()
    assert torch.equal(kernels.linear(weight, None, "none")(x), x @ weight.T)
    assert kernels.gated(weight, "none")(x).shape == (3, 5)
    assert kernels.token_table(weight).project(x, None).shape == (3, 10)
    gain = torch.ones(6)
    assert torch.equal(kernels.rms_norm(x, gain, 1e-6), PLAIN.rms_norm(x, gain, 1e-6))


@needs_native
def test_one_thread_computes_what_two_compute() -> None:
    weight, x = normal(320, 64).bfloat16(), normal(30, 64, seed=1).bfloat16()
    linear = NativeKernels().linear(weight, None, "none")
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(linear(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_who_computes() -> None:
    assert choose("plain", CPU, torch.bfloat16).name == "plain"
    assert choose("auto", CPU, torch.float32).name == "plain"
    with pytest.raises(ParameterError, match=r"kernels='native': .* bfloat16 on a CPU, .*float32"):
        choose("native", CPU, torch.float32)


def test_without_a_compiler_the_build_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler: install g\+\+"):
        build.build()


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(build.BuildError, match=r"/nowhere/c\+\+ can't be run: No such file"):
        build.build()


@needs_native
@pytest.mark.parametrize("width", [1, 15, 16, 17, 103, 4096])
def test_peaks(width: int) -> None:
    logits = (normal(7, width + 3) * 8).bfloat16()[:, 3:]
    best = logits.float().amax(-1)
    logits[1, width // 2 :] = best[1]  # several: the first of them counts
    logits[2] = -torch.inf
    logits[2, -1] = -30.0
    peaks = NativeKernels().peaks
    assert peaks is not None
    columns, scores, log_p = peaks(logits)
    want = [row.index(max(row)) for row in logits.float().tolist()]
    assert columns.tolist() == want
    assert torch.equal(scores, logits.float().amax(-1))
    every = logits.double().log_softmax(-1)
    torch.testing.assert_close(
        log_p.double(), every.gather(1, columns[:, None])[:, 0], atol=1e-5, rtol=1e-5
    )


@needs_native
def test_nothing_is_likely_where_nothing_is_possible() -> None:
    peaks = NativeKernels().peaks
    assert peaks is not None
    _, scores, log_p = peaks(torch.full((2, 40), -torch.inf).bfloat16())
    assert scores.tolist() == log_p.tolist() == [-torch.inf] * 2
