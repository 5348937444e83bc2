"""Every way in which a CPU can compute the model: a dtype, kernels, an attention backend.

Does not import transformers, so that rank processes start soon.
"""

from dataclasses import dataclass

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from model import attention, kernels
from model.attention import AttentionBackend
from model.kernels import Kernels
from model.params import AttentionName, KernelsName

from .native import OBSTACLE, needs_native

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Way:
    """What computes, by the names that a user gives it; its parts are made in each process."""

    dtype: torch.dtype
    kernels: KernelsName
    attention: AttentionName

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}, {self.kernels}, {self.attention}"

    @property
    def exact(self) -> bool:
        """Whether it computes in float32."""
        return self.dtype == torch.float32

    @property
    def head_dim(self) -> int:
        """A head size that the backend takes; the reference, which takes any, has an odd one."""
        return 20 if self.attention == "reference" else 32

    @property
    def native(self) -> bool:
        """Whether it needs the compiled library."""
        return "native" in {self.kernels, self.attention}

    def make_kernels(self) -> Kernels:
        return kernels.choose(self.kernels, CPU, self.dtype)

    def make_backend(self) -> AttentionBackend:
        return attention.choose(self.attention, CPU, self.dtype, self.head_dim)


def run_flex_as_written() -> None:
    """Let torch run FlexAttention as it is instead of tracing it for each shape."""
    torch_flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True


EXACT = [
    Way(torch.float32, "plain", "reference"),
    Way(torch.float32, "plain", "flex"),
]
ROUNDED = [
    Way(torch.bfloat16, "plain", "reference"),
    Way(torch.bfloat16, "plain", "native"),
    Way(torch.bfloat16, "native", "reference"),
    Way(torch.bfloat16, "native", "native"),
]
# As written for a CPU it is slow: rows 5 and 6 have to do.
ROUNDED_FLEX = Way(torch.bfloat16, "plain", "flex")


def usable(way: Way) -> bool:
    """Whether it can be tested here."""
    return not way.native or OBSTACLE is None


def params_of(ways: list[Way]) -> list[object]:
    """Give the ways as parameters; those that need the compiled library are skipped without it."""
    return [
        pytest.param(way, id=str(way), marks=[needs_native] if way.native else []) for way in ways
    ]


exact_ways = pytest.mark.parametrize("way", params_of(EXACT), indirect=True)
every_way = pytest.mark.parametrize("way", params_of(EXACT + ROUNDED), indirect=True)
