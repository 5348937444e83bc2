"""The Triton kernels compiled for Hopper, which needs no GPU: types and shapes that it refuses."""

import os
from typing import Any

import pytest

# bfloat16 checkpoints of 2304 and 3584 hidden units, in their blocks; one KV head is a constant.
CASES: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "rms_norm": (
        {"x_ptr": "*bf16", "gain_ptr": "*fp32", "out_ptr": "*bf16", "x_stride": "i32"}
        | {"size": "i32", "eps": "fp32"},
        {"BLOCK": 4096},
    ),
    "add_norm": (
        {"x_ptr": "*bf16", "branch_ptr": "*bf16", "branch_gain_ptr": "*fp32"}
        | {"gain_ptr": "*fp32", "out_ptr": "*bf16", "size": "i32", "eps": "fp32"},
        {"BLOCK": 4096},
    ),
    "gelu_gate": ({"gate_up_ptr": "*bf16", "out_ptr": "*bf16", "width": "i32"}, {"BLOCK": 1024}),
    "soft_cap": ({"x_ptr": "*bf16", "count": "i32", "cap": "fp32"}, {"BLOCK": 1024}),
    "rotate_and_store": (
        {"qkv_ptr": "*bf16", "cos_ptr": "*fp32", "sin_ptr": "*fp32", "slots_ptr": "*i64"}
        | {"keys_ptr": "*bf16", "values_ptr": "*bf16", "qkv_stride": "i32", "heads": "i32"},
        {"kv_heads": 1, "HALF": 128, "BLOCK": 128},
    ),
    "quantize_fp8": (
        {"x_ptr": "*bf16", "out_ptr": "*fp8e4nv", "scale_ptr": "*fp32", "x_stride": "i32"}
        | {"size": "i32"},
        {"BLOCK": 16384},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_compiles_for_hopper(name: str) -> None:
    triton: Any = pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter compiles nothing")
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415 - needs Triton

    from model.kernels.triton import device  # noqa: PLC0415 - needs Triton

    signature, constants = CASES[name]
    names = getattr(device, name).arg_names
    source = triton.compiler.ASTSource(
        fn=getattr(device, name),
        signature={n: "constexpr" if n in constants else signature[n] for n in names},
        constexprs=constants,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert "sm_90" in compiled.asm["ptx"]
    assert compiled.asm["cubin"]
