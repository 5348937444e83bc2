"""What every check is given, and what it may say."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Details = dict[str, Any]


class CheckFailedError(Exception):
    """It ran, and the result is wrong."""


class SkippedError(Exception):
    """It can't be tried here."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Where the checks run.

    Attributes:
        kind: of the device.
        shape: of the checkpoint whose throughput is measured.
    """

    kind: Literal["cuda", "cpu"]
    shape: str

    @property
    def device(self) -> torch.device:
        """The device."""
        return torch.device(self.kind)

    @property
    def on_cuda(self) -> bool:
        """Whether that is a GPU."""
        return self.kind == "cuda"

    def need_cuda(self) -> None:
        """Skip the check without a GPU."""
        if not self.on_cuda:
            raise SkippedError("needs CUDA")

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw a tensor, the same on every device."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator).to(self.device, dtype)

    def seconds(self, function: Callable[[], Any], repeat: int = 10, inner: int = 1) -> float:
        """Return the seconds of a call: the median of several samples after one warm-up.

        Args:
            function: what is called; the device has finished when the clock stops.
            repeat: samples.
            inner: calls in each sample: short ones follow each other without a pause.
        """
        samples = []
        for _ in range(repeat + 1):
            self._finish()
            start = time.perf_counter()
            for _ in range(inner):
                function()
            self._finish()
            samples.append((time.perf_counter() - start) / inner)
        return statistics.median(samples[1:])

    def copy_bytes_per_s(self) -> float:
        """Measure a copy of a large tensor: bytes read and bytes written, together, per second."""
        source = self.randn(1 << 20, dtype=torch.bfloat16).repeat(1 << (11 if self.on_cuda else 6))
        target = torch.empty_like(source)
        return 2 * source.nbytes / self.seconds(lambda: target.copy_(source))

    def matmul_flops_per_s(self) -> float:
        """Measure a large bfloat16 product of random numbers."""
        size = 8192 if self.on_cuda else 1024
        a = torch.randn(size, size, device=self.device).bfloat16()
        b = torch.randn(size, size, device=self.device).bfloat16()
        return 2.0 * size**3 / self.seconds(lambda: a @ b)

    def free(self) -> None:
        """Give back what nothing refers to any more: two models may not fit side by side."""
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()

    def _finish(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()


def error_of(actual: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return float((actual - expected).norm() / expected.norm())


def require(error: float, limit: float, what: str) -> float:
    """Return the error if it is within the limit.

    Raises:
        CheckFailedError: it is not, or is not a number.
    """
    if not error <= limit:
        raise CheckFailedError(f"{what}: relative error {error:.3g}, allowed {limit:g}")
    return float(f"{error:.3g}")


def significant(value: float) -> float:
    """Round to four digits."""
    return float(f"{value:.4g}")
