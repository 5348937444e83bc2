"""Where an engine computes, as its settings and the machine have it."""

import torch

from model.errors import ParameterError
from model.params import EngineConfig


def threads_of(config: EngineConfig, device_type: str) -> int | None:
    """Return the CPU threads of each rank: ranks that compute on the CPU share the cores."""
    if config.threads is not None or device_type != "cpu" or config.tensor_parallel == 1:
        return config.threads
    return max(1, torch.get_num_threads() // config.tensor_parallel)


def overlaps_on(config: EngineConfig, device_type: str) -> bool:
    """Whether steps overlap; ParameterError if they are asked to and can't."""
    if config.overlap and config.tensor_parallel > 1:
        raise ParameterError(
            f"overlap needs a single rank, but tensor_parallel is {config.tensor_parallel}: "
            "leave overlap out"
        )
    wanted = device_type == "cuda" if config.overlap is None else config.overlap
    return wanted and config.tensor_parallel == 1


def device_type_of(config: EngineConfig) -> str:
    """Return "cpu" or "cuda"; ParameterError if the machine lacks what is asked for."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ParameterError("device is cuda, but torch sees no CUDA device: use cpu or auto")
    if config.device == "cpu" or not available:
        return "cpu"
    if config.tensor_parallel > torch.cuda.device_count():
        raise ParameterError(
            f"tensor_parallel is {config.tensor_parallel}, but there are "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    return "cuda"
