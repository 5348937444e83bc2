"""Eight-bit floats: the arithmetic on a CPU, which multiplies them slowly, and who is refused."""

import pytest
import torch
from torch import Tensor

from model.errors import ParameterError
from model.kernels import PlainKernels
from model.kernels.fp8 import Fp8Linear, require_fp8
from model.quantization.rows import fp8_rows as quantize

from .engine.conftest import MakeEngine, folders, make

__all__ = ["folders", "make"]

# Three bits behind the point: a value is off by 2^-4 at most and by a third of that in the mean
# square; weights and activations both.
FP8_ERROR = 0.045


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rows_keep_their_largest_value_and_three_bits_of_the_others() -> None:
    x = normal(50, 64) * torch.logspace(-8, 4, 50)[:, None]
    x[0] = 0
    rows = quantize(x)
    back = rows.values.float() * rows.scale
    assert torch.equal(back[0], x[0])
    torch.testing.assert_close(back.abs().amax(-1), x.abs().amax(-1))
    large = x.abs() > x.abs().amax(-1, keepdim=True) / 1000
    assert float(((back - x).abs() / x.abs())[large].max()) <= 2**-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 33])
def test_linear_is_the_product_of_what_was_rounded(dtype: torch.dtype, rows: int) -> None:
    weight, bias, x = normal(48, 64).to(dtype), normal(48, seed=1).to(dtype), normal(rows, 64)
    x = x.to(dtype)
    linear = PlainKernels().linear(weight, bias, "fp8")
    assert isinstance(linear, Fp8Linear)
    got = linear(x)
    assert got.dtype == dtype
    a, b = quantize(x), quantize(weight)
    rounded = (a.values.float() * a.scale) @ (b.values.float() * b.scale).T + bias.float()
    assert error(got, rounded) < 0.004
    assert error(got, x.float() @ weight.float().T + bias.float()) < FP8_ERROR
    assert linear.nbytes == weight.numel() + 4 * len(weight)


def test_gated_goes_through_fp8() -> None:
    weight, x = normal(64, 32).bfloat16(), normal(5, 32, seed=1).bfloat16()
    plain = PlainKernels()
    want = plain.gated(weight.float(), "none")(x.float())
    assert error(plain.gated(weight, "fp8")(x), want) < 3 * FP8_ERROR


def test_shapes_that_the_matmul_can_not_take_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"multiples of 16, not \(40, 64\); use 'int8'"):
        Fp8Linear(normal(40, 64), None)


def test_fp8_is_refused_where_nothing_multiplies_it(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParameterError, match=r"capability 8\.9 or more .*, not cpu; use 'int8'"):
        make(quantization="fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(ParameterError, match=r"this one has 8\.0; use 'int8' or 'none'"):
        require_fp8(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    require_fp8(torch.device("cuda"))


def error(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())
