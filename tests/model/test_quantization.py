"""Formats of quantized weights against bitsandbytes, and the products with them."""

import logging

import bitsandbytes as bnb
import bitsandbytes.functional as bnb_functional
import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError, ParameterError
from model.kernels import Kernels, NativeKernels, PlainKernels
from model.params import WeightFormat
from model.quantization import FORMATS, QuantizedWeight, nibbles
from model.quantization.bitsandbytes import Nf4Codes, Nf4Scales

from .native import needs_native

DECODED: list[WeightFormat] = ["int4", "bnb-nf4", "bnb-int8"]
EVERY: list[WeightFormat] = [*DECODED, "int8", "fp8"]
DTYPES = [torch.float32, torch.bfloat16]
# Of the last rounding; in the native kernels also of NF4's sixteen values.
BFLOAT16_ERROR = 0.004
# Of normally distributed weights.
WEIGHT_ERROR = {"int4": 0.095, "bnb-nf4": 0.1, "bnb-int8": 0.01, "int8": 0.01, "fp8": 0.03}
# One row more and less than the kernel computes at once (12), and more than a block of them.
ROWS = [1, 11, 12, 13, 47]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight with a row of zeros, and rows of other sizes."""
    values = normal(*shape) * torch.logspace(-3, 1, shape[0])[:, None]
    values[shape[0] // 2] = 0
    return values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nf4_is_that_of_bitsandbytes_to_the_bit(dtype: torch.dtype) -> None:
    values = weight(50, 192, dtype=dtype)
    ours = FORMATS["bnb-nf4"].quantize(values)
    packed, state = bnb_functional.quantize_4bit(values, quant_type="nf4", blocksize=64)
    assert torch.equal(ours.tensors[0].flatten(), packed.flatten())
    assert torch.equal(ours.tensors[1].flatten(), state.absmax)
    for wanted in DTYPES:
        state.dtype = wanted
        theirs = bnb_functional.dequantize_4bit(packed, state)
        assert torch.equal(ours.dequantize(wanted), theirs)


def test_scales_that_are_quantized_themselves_are_read_to_the_bit() -> None:
    values = weight(60, 448)
    packed, state = bnb_functional.quantize_4bit(
        values, quant_type="nf4", blocksize=64, compress_statistics=True
    )
    stored = {f"w.{key}": tensor for key, tensor in state.as_dict(packed=True).items()}
    names = Nf4Scales().names("w.absmax", stored)
    assert set(names) == set(stored)
    scales = Nf4Scales().read("w.absmax", (60, 7), stored)
    codes = Nf4Codes().read("w", (60, 224), {"w": packed})
    ours = QuantizedWeight(FORMATS["bnb-nf4"], (codes, scales), 448)
    theirs = bnb_functional.dequantize_4bit(packed, state)
    assert torch.equal(ours.dequantize(torch.float32), theirs)
    del stored["w.nested_absmax"]
    with pytest.raises(CheckpointError, match=r"w\.absmax is quantized itself, and 'w\."):
        Nf4Scales().read("w.absmax", (60, 7), stored)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bnb_int8_is_that_of_bitsandbytes_to_the_bit(dtype: torch.dtype) -> None:
    values = weight(50, 192, dtype=dtype)
    ours = FORMATS["bnb-int8"].quantize(values)
    codes, largest, _ = bnb_functional.int8_vectorwise_quant(values.half())
    rows = torch.arange(50) != 25  # what it makes of a row of zeros is not defined
    assert torch.equal(ours.tensors[0][rows], codes[rows])
    assert torch.equal(ours.tensors[1], largest)
    theirs = bnb_functional.int8_vectorwise_dequant(codes, largest)
    assert torch.equal(ours.dequantize(torch.float32)[rows], theirs[rows])
    assert not ours.dequantize(torch.float32)[25].any()


def test_int4_keeps_the_ends_of_each_group() -> None:
    values = normal(20, 128) + torch.linspace(-3, 3, 20)[:, None]
    back = FORMATS["int4"].quantize(values).dequantize(torch.float32).view(20, 2, 64)
    groups = values.view(20, 2, 64)
    span = groups.amax(-1) - groups.amin(-1)
    # Half a step, and as much as scale and offset are rounded to bfloat16.
    bound = span / 30 + groups.abs().amax(-1) * 2**-8
    assert bool(((back - groups).abs() <= bound[..., None]).all())
    same = torch.full((1, 64), 0.75)
    assert torch.equal(FORMATS["int4"].quantize(same).dequantize(torch.float32), same)


@pytest.mark.parametrize("name", EVERY)
def test_whatever_dtype_holds_the_values_the_codes_are_the_same(name: WeightFormat) -> None:
    values = weight(32, 128, dtype=torch.bfloat16)
    one, other = (FORMATS[name].quantize(x) for x in (values, values.float()))
    for a, b in zip(one.tensors, other.tensors, strict=True):
        assert torch.equal(a.float(), b.float())


@pytest.mark.parametrize("name", EVERY)
def test_a_rank_that_cuts_rows_or_blocks_gets_the_same_values(name: WeightFormat) -> None:
    values, whole = normal(32, 128), FORMATS[name].quantize(normal(32, 128))
    part = FORMATS[name].quantize(values[8:24])
    assert torch.equal(whole[8:24].dequantize(torch.float32), part.dequantize(torch.float32))
    if FORMATS[name].block > 1:
        half = FORMATS[name].quantize(values[:, 64:])
        assert torch.equal(whole.dequantize(torch.float32)[:, 64:], half.dequantize(torch.float32))


def test_nibbles() -> None:
    codes = torch.randint(16, (3, 10), dtype=torch.uint8)
    assert torch.equal(nibbles.unpack(nibbles.pack(codes)), codes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_plain_products(name: WeightFormat, dtype: torch.dtype) -> None:
    values, bias, x = (t.to(dtype) for t in (normal(48, 128), normal(48), normal(7, 128, seed=1)))
    linear = PlainKernels().linear(values, bias, name)
    assert linear.nbytes == FORMATS[name].quantize(values).nbytes
    got = linear(x)
    assert got.dtype == dtype
    exact = x.float() @ values.float().T + bias.float()
    assert error(got, exact) < 1.5 * WEIGHT_ERROR[name]
    if name in DECODED:
        kept = FORMATS[name].quantize(values).dequantize(torch.float32)
        assert error(got, x.float() @ kept.T + bias.float()) < BFLOAT16_ERROR


@needs_native
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("width", "depth"), [(32, 64), (7, 128), (330, 192)])
@pytest.mark.parametrize("name", DECODED)
def test_native_products(name: WeightFormat, width: int, depth: int, rows: int) -> None:
    values, bias = normal(width, depth).bfloat16(), normal(width, seed=1).bfloat16()
    # Rows that are cut out of wider ones, as the queries of a fused projection are.
    x = normal(rows, depth + 8, seed=2).bfloat16()[:, 8:]
    quantized = FORMATS[name].quantize(values)
    want = x.float() @ quantized.dequantize(torch.float32).T + bias.float()
    linear = NativeKernels().linear(values, bias, name)
    got = linear(x)
    assert error(got, want) < BFLOAT16_ERROR
    assert torch.equal(NativeKernels().linear(quantized, bias, "none")(x), got)
    alone = torch.cat([linear(row[None]) for row in x])
    assert torch.equal(alone, got), "a row's bits depend on the others"


@needs_native
@pytest.mark.parametrize("name", DECODED)
def test_native_gated_and_no_rows(name: WeightFormat) -> None:
    native, plain = NativeKernels(), PlainKernels()
    for width in (16, 40):
        values = (normal(2 * width, 64) / 8).bfloat16()
        x = 2 * normal(13, 64, seed=2).bfloat16()
        kept = FORMATS[name].quantize(values).dequantize(torch.float32)
        gated = native.gated(values, name)
        assert error(gated(x), plain.gated(kept, "none")(x.float())) < 2 * BFLOAT16_ERROR
        assert gated(x[:0]).shape == (0, width)
        halves = gated.halves(x)
        assert error(halves, x.float() @ kept.T) < BFLOAT16_ERROR
        assert error(gated.product(halves), gated(x)) < 2 * BFLOAT16_ERROR
    assert gated.nbytes < values.nbytes * 0.8


@needs_native
def test_native_goes_to_plain_torch_where_a_row_has_no_whole_groups() -> None:
    values, x = normal(8, 40).bfloat16(), normal(3, 40, seed=1).bfloat16()
    native, plain = (k.linear(values, None, "bnb-int8") for k in (NativeKernels(), PlainKernels()))
    assert torch.equal(native(x), plain(x))


@pytest.mark.parametrize("kernels", [PlainKernels(), pytest.param("native", marks=needs_native)])
def test_no_worse_than_what_bitsandbytes_computes(
    kernels: Kernels | str, caplog: pytest.LogCaptureFixture
) -> None:
    """Activations with outliers, for which LLM.int8 splits the product; ours rounds none."""
    caplog.set_level(logging.ERROR)
    native = isinstance(kernels, str)
    ours = NativeKernels() if native else kernels
    assert not isinstance(ours, str)
    values, x = normal(64, 256).bfloat16() / 16, normal(20, 256, seed=1).bfloat16()
    x[:, 3] *= 40
    x[4, 70] = 30
    exact = x.float() @ values.float().T
    eight = bnb.nn.Linear8bitLt(256, 64, bias=False, has_fp16_weights=False, threshold=6.0)
    eight.weight = bnb.nn.Int8Params(values, requires_grad=False, has_fp16_weights=False)
    four = bnb.nn.Linear4bit(256, 64, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
    four.weight = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4")
    for name, theirs in (("bnb-int8", eight.to("cpu")), ("bnb-nf4", four.to("cpu"))):
        with torch.no_grad():
            bound = error(theirs(x), exact)
        got = error(ours.linear(values, None, name)(x), exact)  # type: ignore[arg-type]
        assert got < 1.05 * bound, name  # nearly all of it is that of the weights, which are equal


@pytest.mark.parametrize("name", ["int4", "bnb-nf4"])
def test_rows_that_are_no_whole_blocks_are_refused(name: WeightFormat) -> None:
    told = f"quantization='{name}' takes 64 inputs .* a layer with 96 on a rank: .* or 'int8'"
    with pytest.raises(ParameterError, match=told):
        FORMATS[name].quantize(normal(8, 96))
    with pytest.raises(ParameterError, match=told):
        FORMATS[name].empty(8, 96, torch.device("cpu"))


def test_sizes() -> None:
    sizes = {name: kind.quantize(normal(64, 256)).nbytes for name, kind in FORMATS.items()}
    values = 64 * 256
    assert sizes == {
        "int8": values + 4 * 64,
        "fp8": values + 4 * 64,
        "bnb-int8": values + 4 * 64,
        "int4": values * 4.5 / 8,
        "bnb-nf4": values * 4.5 / 8,
    }


def test_a_quantized_weight_has_a_shape_and_rows() -> None:
    whole = FORMATS["int4"].quantize(normal(8, 64))
    assert isinstance(whole, QuantizedWeight)
    assert whole.shape == (8, 64)
    assert whole[2:5].shape == (3, 64)
    assert whole.detach() is whole
