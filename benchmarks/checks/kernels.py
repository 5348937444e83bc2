"""The Triton kernels against plain torch on the device, at the sizes of the 2B model."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.checkpoints import SHAPES
from model.kernels import Kernels, PlainKernels, choose
from model.kernels.decoded import DecodedLinear
from model.kernels.fp8 import Fp8Linear, require_fp8
from model.quantization import FORMATS, QuantizedWeight
from model.quantization.rows import fp8_rows

from .environment import CheckFailedError, Details, Setup, error_of, require, significant

BF16_ERROR = 0.004
FP8_ERROR = 0.045
DECODES, PROMPT = 256, 8192


def triton(setup: Setup) -> Details:
    """Compare each kernel, and time it on a decode of 256 sequences and on 8192 tokens."""
    setup.need_cuda()
    ours, plain = choose("triton", setup.device, torch.bfloat16), PlainKernels()
    details: Details = {}
    for rows in (DECODES, PROMPT):
        for name, call in _calls(setup, rows).items():
            error = error_of(call(ours), call(plain))
            label = f"{name} of {rows}"
            details[label] = {
                "error": require(error, BF16_ERROR, label),
                "us": significant(1e6 * setup.seconds(lambda: call(ours), inner=20)),  # noqa: B023
                "plain_us": significant(1e6 * setup.seconds(lambda: call(plain), inner=20)),  # noqa: B023
            }
    return details


def fp8_linear(setup: Setup) -> Details:
    """Quantize and multiply in fp8, with either quantizer; time it against bfloat16."""
    require_fp8(setup.device)
    from model.kernels.triton.kernels import quantize_fp8  # noqa: PLC0415 - needs Triton

    shape = SHAPES["2b"]
    weight = setup.randn(2 * shape.intermediate, shape.hidden, dtype=torch.bfloat16)
    details: Details = {}
    for rows in (DECODES, PROMPT):
        x = setup.randn(rows, shape.hidden, dtype=torch.bfloat16)
        want = x.float() @ weight.float().t()
        for name, quantizer in (("plain", fp8_rows), ("triton", quantize_fp8)):
            linear = Fp8Linear(weight, None, quantizer)
            label = f"{name} of {rows}"
            details[label] = {
                "error": require(error_of(linear(x), want), FP8_ERROR, label),
                "faster_than_bf16": significant(
                    setup.seconds(lambda: x @ weight.t(), inner=20)  # noqa: B023
                    / setup.seconds(lambda: linear(x), inner=20)  # noqa: B023
                ),
            }
    return details


def decoded(setup: Setup) -> Details:
    """Decode weights as a CPU does, to the bit, and time products with them against bfloat16."""
    shape = SHAPES["2b" if setup.on_cuda else "tiny"]
    weight = setup.randn(2 * shape.intermediate, shape.hidden, dtype=torch.bfloat16)
    x = setup.randn(DECODES, shape.hidden, dtype=torch.bfloat16)
    details: Details = {}
    for name in ("int4", "bnb-nf4", "bnb-int8"):
        kept = FORMATS[name].quantize(weight)
        here = QuantizedWeight(kept.format, tuple(t.cpu() for t in kept.tensors), kept.inputs)
        if not torch.equal(kept.dequantize(torch.float32).cpu(), here.dequantize(torch.float32)):
            raise CheckFailedError(f"{name} decodes otherwise than on a CPU")
        linear = DecodedLinear(kept, None)
        details[name] = {
            "faster_than_bf16": significant(
                setup.seconds(lambda: x @ weight.t(), inner=20)
                / setup.seconds(lambda: linear(x), inner=20)  # noqa: B023
            )
        }
    return details


def _calls(setup: Setup, rows: int) -> dict[str, Callable[[Kernels], Tensor]]:
    shape = SHAPES["2b"]
    x = setup.randn(rows, shape.hidden, dtype=torch.bfloat16)
    branch = x.flip(0)
    gain = 1 + 0.1 * setup.randn(shape.hidden)
    weight = setup.randn(2 * shape.intermediate, shape.hidden, dtype=torch.bfloat16)
    weight /= shape.hidden**0.5
    table = setup.randn(4096, shape.hidden, dtype=torch.bfloat16)
    return {
        "rms_norm": lambda kernels: kernels.rms_norm(x, gain, 1e-6),
        "add_norm": lambda kernels: kernels.add_norm(x.clone(), branch, gain, gain, 1e-6)[1],
        "gated": lambda kernels: kernels.gated(weight, "none")(x),
        "head": lambda kernels: kernels.token_table(table).project(x, 30.0),
    }
