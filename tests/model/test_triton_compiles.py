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
# Those of attention, with heads as large as Gemma 2's: decodes in parts, and tiles of prompts.
POINTERS = {"q_ptr": "*bf16", "keys_ptr": "*bf16", "values_ptr": "*bf16", "sums_ptr": "*fp32"}
POINTERS |= {"tiles_ptr": "*i32", "tables_ptr": "*i32", "first_keys_ptr": "*i32"}
NUMBERS = {"q_stride": "i32", "table_stride": "i32", "window": "i32", "scale": "fp32"}
HEADS = {"CAP": 50.0, "GROUP": 2, "KV_HEADS": 4, "SIZE": 256, "PAGE": 64, "CHUNK": 512}
ATTENTION: dict[str, tuple[dict[str, str], dict[str, Any], int]] = {
    "decodes": (
        {**POINTERS, **NUMBERS, "out_ptr": "*fp32"},
        {**HEADS, "PARTS": 4, "BLOCK_M": 16, "BLOCK_N": 64},
        4,
    ),
    "tiles": (
        {**POINTERS, **NUMBERS, "out_ptr": "*bf16"},
        {**HEADS, "PARTS": 1, "BLOCK_M": 128, "BLOCK_N": 64},
        8,
    ),
}
SHARED_BYTES = 227 << 10  # of a Hopper's multiprocessor, for one block


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_compiles_for_hopper(name: str) -> None:
    compiler()
    from model.kernels.triton import attention  # noqa: PLC0415 - needs Triton

    signature, constants, warps = ATTENTION[name]
    compiled = compile_for_hopper(attention.attend, signature, constants, warps)
    assert compiled.metadata.shared <= SHARED_BYTES
    # Wide products are for the whole warp group, narrow ones for each warp.
    product = "wgmma" if name == "tiles" else "mma.sync"
    assert product in compiled.asm["ptx"]
    assert "cp.async" in compiled.asm["ptx"]


def test_combine_compiles_for_hopper() -> None:
    compiler()
    from model.kernels.triton import attention  # noqa: PLC0415 - needs Triton

    signature = {"parts_ptr": "*fp32", "sums_ptr": "*fp32", "out_ptr": "*bf16", "tiles_ptr": "*i32"}
    constants = {"HEADS": 8, "SIZE": 256, "PARTS": 9, "BLOCK": 16}
    assert compile_for_hopper(attention.combine, signature, constants, 4).asm["cubin"]


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_compiles_for_hopper(name: str) -> None:
    compiler()
    from model.kernels.triton import device  # noqa: PLC0415 - needs Triton

    compiled = compile_for_hopper(getattr(device, name), *CASES[name], 8)
    assert "sm_90" in compiled.asm["ptx"]
    assert compiled.asm["cubin"]


def compiler() -> None:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter compiles nothing")


def compile_for_hopper(
    function: Any, signature: dict[str, str], constants: dict[str, Any], warps: int
) -> Any:
    import triton  # noqa: PLC0415 - may be missing
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415 - likewise

    names = function.arg_names
    # As at run time: torch's tensors begin at multiples of 16 bytes, and rows are as wide.
    aligned = [i for i, n in enumerate(names) if n.endswith("_ptr") or n == "q_stride"]
    source = triton.compiler.ASTSource(
        fn=function,
        signature={n: "constexpr" if n in constants else signature[n] for n in names},
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, "num_stages": 3})
