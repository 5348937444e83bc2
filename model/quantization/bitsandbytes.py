"""bitsandbytes' formats, to the bit, and how its checkpoints have them.

`bnb-nf4` is QLoRA's NormalFloat (Dettmers et al. 2023, arXiv:2305.14314): sixteen quantiles of a
normal distribution, times the largest magnitude of each 64 values. `bnb-int8` has the weights of
LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339). What is computed with either is a product of the
decoded weight: activations are not rounded, so LLM.int8's outliers need no treatment.
The names of tensors are those of bitsandbytes' `QuantState.as_dict` and `Linear8bitLt`.
"""

import json
from collections.abc import Collection, Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from model.errors import CheckpointError

from . import nibbles
from .base import Format, Part, QuantizedWeight, grouped

BLOCK = 64
NESTED_BLOCK = 256
SMALLEST_SCALED = 1e-38
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# 1 / 127 as bitsandbytes writes it.
INT8_STEP = 7.874015718698502e-3
STATE = ".quant_state.bitsandbytes__nf4"


class Nf4Codes:
    """The packed codes, which bitsandbytes keeps as one column."""

    def names(self, name: str, stored: Collection[str]) -> tuple[str, ...]:  # noqa: ARG002
        """They are one tensor."""
        return (name,)

    def read(self, name: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Tensor:
        """Fold the column into rows."""
        return _folded(name, tensors[name], shape, torch.uint8)


class Nf4Scales:
    """The largest magnitudes, which may be in eight bits themselves ("double quantization")."""

    def names(self, name: str, stored: Collection[str]) -> tuple[str, ...]:
        """Name what says how to read them, and if they are in eight bits, how to decode them."""
        weight = name.removesuffix(".absmax")
        nested = (f"{weight}.nested_absmax", f"{weight}.nested_quant_map")
        found = tuple(part for part in nested if part in stored)
        return (name, f"{weight}.quant_map", weight + STATE, *found)

    def read(self, name: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Tensor:
        """Decode them as bitsandbytes does, and fold them into rows."""
        weight = name.removesuffix(".absmax")
        state = _state(weight + STATE, tensors[weight + STATE])
        if not torch.equal(tensors[f"{weight}.quant_map"].float(), torch.tensor(NF4_VALUES)):
            raise CheckpointError(f"{weight}.quant_map holds other values than those of NF4")
        if "nested_offset" not in state:
            return _folded(name, tensors[name], shape, torch.float32)
        try:
            table = tensors[f"{weight}.nested_quant_map"].float()
            outer = tensors[f"{weight}.nested_absmax"].float()
        except KeyError as error:
            raise CheckpointError(f"{name} is quantized itself, and {error} is missing") from None
        codes = _folded(name, tensors[name], (shape[0] * shape[1],), torch.uint8)
        scales = outer.repeat_interleave(NESTED_BLOCK)[: len(codes)]
        return (table[codes.int()] * scales + float(state["nested_offset"])).view(shape)


class Int8Codes:
    """The int8 values, in the only order of theirs that is still written."""

    def names(self, name: str, stored: Collection[str]) -> tuple[str, ...]:
        """Name the values, and the code of their order where there is one."""
        order = f"{name}_format"
        return (name, order) if order in stored else (name,)

    def read(self, name: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Tensor:
        """Return them, after a look at their order."""
        order = tensors.get(f"{name}_format")
        if order is not None and order.any():
            raise CheckpointError(
                f"{name}_format is {int(order)}: values in another order than by rows are not "
                "read; save the model again with a newer bitsandbytes"
            )
        return _folded(name, tensors[name], shape, torch.int8)


class Nf4Format(Format):
    """NF4 in blocks of 64."""

    name = "bnb-nf4"
    block = BLOCK
    parts = (
        Part("", torch.uint8, 2, Nf4Codes()),
        Part(".absmax", torch.float32, BLOCK, Nf4Scales()),
    )

    def encode(self, weight_ND: Tensor) -> tuple[Tensor, ...]:
        """Take the nearest value, the lower of two as near."""
        groups = grouped(weight_ND.float(), BLOCK)
        largest = groups.abs().amax(-1)
        scaled = (groups * (1.0 / largest.clamp(min=SMALLEST_SCALED))[..., None]).clamp_(-1, 1)
        table = _nf4_values(weight_ND.device)
        between = (table[:-1] + table[1:]) / 2
        codes = torch.bucketize(scaled, between, out_int32=True).to(torch.uint8)
        return nibbles.pack(codes.flatten(-2)), largest

    def decode(self, tensors: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Look the values up and multiply."""
        packed, largest = tensors
        values = grouped(_nf4_values(packed.device)[nibbles.unpack(packed).int()], BLOCK)
        return values.mul_(largest[..., None]).flatten(-2).to(dtype)

    def stored(self, name: str, weight: QuantizedWeight) -> dict[str, Tensor]:
        """Add the table and the state, without which bitsandbytes can't read it."""
        packed, largest = weight.tensors
        state = {
            "quant_type": "nf4",
            "blocksize": BLOCK,
            "dtype": "bfloat16",
            "shape": list(weight.shape),
        }
        text = json.dumps(state).encode()
        return {
            name: packed.reshape(-1, 1),
            f"{name}.absmax": largest.flatten(),
            f"{name}.quant_map": torch.tensor(NF4_VALUES),
            name + STATE: torch.frombuffer(bytearray(text), dtype=torch.uint8),
        }


class BnbInt8Format(Format):
    """Multiples of each output's largest magnitude / 127, of a weight rounded to float16 first."""

    name = "bnb-int8"
    block = 1
    parts = (Part("", torch.int8, 1, Int8Codes()), Part("SCB", torch.float32, None))

    def tensor_names(self, weight: str) -> tuple[str, ...]:
        """The scales belong to the module."""
        return weight, weight.removesuffix("weight") + "SCB"

    def encode(self, weight_ND: Tensor) -> tuple[Tensor, ...]:
        """Round by row."""
        halves = weight_ND.to(torch.float16)
        largest_N = halves.abs().amax(-1).float()
        factor_N = 127.0 / largest_N
        factor_N = torch.where(largest_N == 0, 0.0, factor_N)
        return (halves * factor_N[:, None]).round_().to(torch.int8), largest_N

    def decode(self, tensors: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Multiply by the scales / 127."""
        values_ND, largest_N = tensors
        return (values_ND * largest_N[:, None] * INT8_STEP).to(dtype)

    def stored(self, name: str, weight: QuantizedWeight) -> dict[str, Tensor]:
        """Add the code of the order, which is by rows."""
        order = torch.tensor(0, dtype=torch.uint8)
        return super().stored(name, weight) | {f"{name}_format": order}


@cache
def _nf4_values(device: torch.device) -> Tensor:
    """Keep the values on a device: a captured CUDA graph can't copy them there."""
    return torch.tensor(NF4_VALUES, device=device)


def _folded(name: str, values: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """View a tensor in another shape, if it has the dtype and the size for it."""
    size = prod(shape)
    if values.dtype != dtype or values.numel() != size:
        raise CheckpointError(
            f"{name} has {values.numel()} elements of {values.dtype}, config.json asks for {size} "
            f"of {dtype}"
        )
    return values.view(shape)


def _state(name: str, values: Tensor) -> dict[str, Any]:
    """Read what bitsandbytes says of a weight; the blocks must be the usual ones."""
    try:
        state = json.loads(bytes(values.tolist()))
        known = state["quant_type"], state["blocksize"]
        nested = state.get("nested_blocksize", NESTED_BLOCK)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name} can't be read: {error}") from None
    if (*known, nested) != ("nf4", BLOCK, NESTED_BLOCK):
        raise CheckpointError(
            f"{name} says {state}; only nf4 in blocks of {BLOCK}, with scales in blocks of "
            f"{NESTED_BLOCK}, is read"
        )
    return dict(state)
