"""Ranks as threads of one process: collectives that need no processes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from model.parallel import TensorParallel

Result = TypeVar("Result")
TIMEOUT_S = 20.0


class Exchange:
    """Where the ranks meet, and how much each of them has sent."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0
        self._barrier = threading.Barrier(size, timeout=TIMEOUT_S)
        self._parts: list[Tensor] = [torch.empty(0)] * size

    def gather(self, rank: int, x: Tensor) -> Tensor:
        self._parts[rank] = x
        if rank == 0:
            self.sent += x.numel()
        self._barrier.wait()
        gathered = torch.stack(self._parts)
        self._barrier.wait()
        return gathered

    def abort(self) -> None:
        self._barrier.abort()


class ThreadRank(TensorParallel):
    def __init__(self, rank: int, exchange: Exchange) -> None:
        super().__init__(rank, exchange.size)
        self._exchange = exchange

    @override
    def all_gather(self, x: Tensor) -> Tensor:
        return self._exchange.gather(self.rank, x)


def on_ranks(size: int, compute: Callable[[TensorParallel], Result]) -> tuple[list[Result], int]:
    """Compute on each rank; gives what each got, and how many numbers rank 0 sent."""
    exchange = Exchange(size)

    def one(rank: int) -> Result:
        try:
            return compute(ThreadRank(rank, exchange))
        except BaseException:
            exchange.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        results = list(pool.map(one, range(size)))
    return results, exchange.sent
