"""Connections between the ranks of one group: gloo on a CPU, NCCL on CUDA.

Groups are made directly, not through `torch.distributed.init_process_group`: that allows one group
in a process, which may be the caller's own, counts groups so that a failed one leaves the process
out of step with others, and replaces `sys.excepthook`.

All ranks are on one machine, and nothing may listen beyond it: by default gloo and NCCL take the
network interface that the host's name leads to. The ports are fresh ones, chosen by the kernel.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed

# Its stubs leave out what is used here.
dist: Any = torch.distributed

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def connect(rank: int, size: int, meeting: Path, device: torch.device, timeout_s: float) -> Any:
    """Meet the other ranks; every one of them must call this.

    Args:
        rank: of this process, in [0, size).
        size: number of ranks.
        meeting: a file that does not exist yet, the same for all. In a private folder it can't
            clash with another group's and is closed to other users, which no port is.
        device: decides the transport.
        timeout_s: longest wait here and in each later collective.

    Returns:
        A `torch.distributed` backend.

    Raises:
        RuntimeError, torch.distributed.DistError: not all ranks came in time.
    """
    timeout = timedelta(seconds=timeout_s)
    store = dist.FileStore(str(meeting), size)
    store.set_timeout(timeout)
    if device.type != "cuda":
        return _gloo(store, rank, size, timeout)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout  # noqa: SLF001 - it has no other name
    with _nccl_on_loopback():
        group = dist.ProcessGroupNCCL(store, rank, size, options)
        # Connections are made by the first collective.
        group.allreduce([torch.zeros(1, device=device)]).wait()
        torch.cuda.synchronize(device)
    return group


def _gloo(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    kind = dist.ProcessGroupGloo
    options = kind._Options()  # noqa: SLF001 - as torch's own tests do; there is no public way
    options._timeout = timeout  # noqa: SLF001
    options._devices = [kind.create_device(interface=LOOPBACK)]  # noqa: SLF001
    return kind(store, rank, size, options)


@contextlib.contextmanager
def _nccl_on_loopback() -> Iterator[None]:
    """Keep NCCL's bootstrap on loopback; it reads that from the environment only, and only once."""
    name = "NCCL_SOCKET_IFNAME"
    before = os.environ.get(name)
    os.environ[name] = LOOPBACK
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
