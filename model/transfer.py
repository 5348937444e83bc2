"""Between the host's memory and a device's, without making the host wait before it must."""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device; a view of the array where that is the CPU.

    Copies to a GPU start from page-locked memory, so they queue behind the kernels that are running
    instead of waiting for them. torch keeps such memory until the copy is done.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cpu":  # not even asked for: on a small step each call counts
        return tensor
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def refill(target: Tensor, source: Tensor) -> None:
    """Overwrite a tensor with one of the host's of the same shape, without waiting either."""
    if target.device.type == "cuda":
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)


class ToHost:
    """A tensor on its way to the host.

    The copy queues behind what the device has been given to do up to now, and what it is given
    later does not delay it.

    Args:
        values: on any device; they may be changed only by what is queued afterwards.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        self._values = values

    def wait(self) -> Tensor:
        """Return it, once it is there: the very tensor if it has been on the host before."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values
