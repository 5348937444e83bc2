"""From the host's arrays to a device, without making the host wait."""

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
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def refill(target: Tensor, source: Tensor) -> None:
    """Overwrite a tensor with one of the host's of the same shape, without waiting either."""
    if target.device.type == "cuda":
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)
