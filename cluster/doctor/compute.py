"""What engines compute on: torch, GPUs, flash-attn, native kernels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .finding import Finding, gib, ok, problem, warning

if TYPE_CHECKING:
    import torch

DRIVER = Path("/proc/driver/nvidia/version")
BFLOAT16_SINCE = (8, 0)
HEAD_DIMS = (128, 256)  # of Gemma 2 27B, and of 2B and 9B


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that torch sees; sizes in bytes."""

    name: str
    capability: tuple[int, int]
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Torch:
    """What torch is, and what it sees.

    Attributes:
        version: with the suffix of its build.
        cuda: the version that it was built for; None for CPUs.
        gpus: those that it can use.
        has_driver: whether the machine has NVIDIA's driver.
        why_no_gpu: what torch says when it is built for CUDA and finds none.
    """

    version: str
    cuda: str | None
    gpus: tuple[Gpu, ...]
    has_driver: bool
    why_no_gpu: str = ""


def examine() -> Iterator[Finding]:
    """Check what this machine computes on."""
    try:
        found = look_at_torch()
    except (ImportError, OSError) as error:
        reason = str(error).partition("\n")[0]
        yield problem("torch", f"can't be imported: {reason}", "install gemmaray again")
        return
    yield from check_torch(found)
    if found.gpus:
        yield from check_flash(why_no_flash)
    else:
        yield check_kernels(why_no_kernels())


def look_at_torch() -> Torch:
    """Ask torch.

    Raises:
        ImportError, OSError: it can't be imported.
    """
    import torch  # noqa: PLC0415 - it takes seconds

    reason = ""
    if torch.version.cuda and not torch.cuda.is_available():
        try:
            torch.empty(0, device="cuda")
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = tuple(_look_at_gpu(torch.device("cuda", index)) for index in range(count))
    return Torch(torch.__version__, torch.version.cuda, gpus, DRIVER.exists(), reason)


def why_no_flash(head_dim: int) -> str | None:
    """Compute something with flash-attn, and say why that fails, if it does."""
    import torch  # noqa: PLC0415

    from model import attention  # noqa: PLC0415
    from model.errors import ParameterError  # noqa: PLC0415

    try:
        attention.choose("flash", torch.device("cuda"), torch.bfloat16, head_dim)
    except ParameterError as error:
        return str(error)
    return None


def why_no_kernels() -> str | None:
    """Say why the compiled kernels can't be used on this CPU, if so."""
    import torch  # noqa: PLC0415

    from model.kernels.native import why_not  # noqa: PLC0415

    return why_not(torch.device("cpu"), torch.bfloat16)


def check_torch(torch: Torch) -> Iterator[Finding]:
    """Tell whether torch and the machine's GPUs find each other."""
    build = f"CUDA {torch.cuda}" if torch.cuda else "CPUs"
    if torch.cuda and torch.has_driver and not torch.gpus:
        text = f"{torch.version} for {build} finds no GPU: {torch.why_no_gpu or 'none is visible'}"
        fix = "look at nvidia-smi, CUDA_VISIBLE_DEVICES, and which CUDA the driver is for"
        yield problem("torch", text, fix)
        return
    if torch.has_driver and not torch.cuda:
        text = f"{torch.version} is built for CPUs; this machine has NVIDIA's driver"
        yield warning("torch", text, "install a build for CUDA to use its GPUs")
        return
    where = f"{len(torch.gpus)} to compute on" if torch.gpus else "no GPU here, CPUs compute"
    yield ok("torch", f"{torch.version} for {build}; {where}")
    for index, gpu in enumerate(torch.gpus):
        yield check_gpu(index, gpu)


def check_gpu(index: int, gpu: Gpu) -> Finding:
    """Tell whether a GPU computes bfloat16, and has room."""
    major, minor = gpu.capability
    text = f"{gpu.name}, capability {major}.{minor}, {gib(gpu.free)} of {gib(gpu.total)} free"
    check = f"gpu {index}"
    if gpu.capability < BFLOAT16_SINCE:
        return warning(check, f"{text}: computes bfloat16 slowly or not at all", "use float32")
    if gpu.free < gpu.total / 2:
        return warning(check, text, "end what holds its memory; nvidia-smi names it")
    return ok(check, text)


def check_flash(why_not: Callable[[int], str | None]) -> Iterator[Finding]:
    """Tell whether flash-attn computes heads of Gemma 2's sizes."""
    for head_dim in HEAD_DIMS:
        check = f"flash-attn {head_dim}"
        if reason := why_not(head_dim):
            fix = "pip install flash-attn --no-build-isolation; Triton computes without it"
            yield warning(check, reason, fix)
        else:
            yield ok(check, f"computes heads of {head_dim}")


def check_kernels(why_not: str | None) -> Finding:
    """Tell whether CPUs compute with the compiled kernels."""
    if why_not:
        return warning("kernels", why_not, "without them plain torch computes, more slowly")
    return ok("kernels", "the native kernels are compiled, and fit this CPU")


def _look_at_gpu(device: "torch.device") -> Gpu:
    import torch  # noqa: PLC0415

    free, total = torch.cuda.mem_get_info(device)
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return Gpu(name, capability, free, total)
