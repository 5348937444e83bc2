"""Tensor parallelism: who holds which part of each layer, and the collectives that join them.

Column-parallel layers cut their outputs, row-parallel layers their inputs (Shoeybi et al. 2019,
arXiv:1909.08053). Attention is cut by heads. With more ranks than KV heads, each KV head is held
by several ranks, as vLLM does; otherwise each rank holds its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .config import ModelConfig
from .errors import EngineDeadError, ParameterError
from .transport import connect

MAX_RANKS = 64
# The backstop: a rank that waits longer for the others gives up by itself.
COLLECTIVE_TIMEOUT_S = 60.0


class TensorParallel:
    """This process's place among the ranks that share every layer.

    With one rank nothing of torch.distributed is touched. With more, they exchange nothing before
    they have joined.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._group: Any = None

    @classmethod
    def single(cls) -> "TensorParallel":
        """Stand alone: no collectives."""
        return cls(rank=0, size=1)

    def join(
        self, meeting: Path, device: torch.device, timeout_s: float = COLLECTIVE_TIMEOUT_S
    ) -> None:
        """Meet the other ranks; every one of them must call this. The arguments: see `connect`.

        Raises:
            EngineDeadError: not all ranks came in time.
        """
        if self.size == 1:
            return
        try:
            self._group = connect(self.rank, self.size, meeting, device, timeout_s)
        except (dist.DistError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise EngineDeadError(
                f"rank {self.rank} of {self.size} could not join the others at {meeting} within "
                f"{timeout_s:g} s: {reason}; see the other ranks' logs for the first failure"
            ) from error

    def leave(self) -> None:
        """Leave the group; collectives can't be called afterwards."""
        group, self._group = self._group, None
        if group is not None:
            group.shutdown()

    def abort(self) -> None:
        """Break off, from another thread, what this rank waits for: NCCL can, gloo can't."""
        if (group := self._group) is not None:
            group.abort()

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum x over the ranks, in place; x is contiguous."""
        if self.size > 1:
            self._group.allreduce([x]).wait()
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """Return [size, ...]: x of every rank, in the order of the ranks."""
        if self.size == 1:
            return x[None]
        parts = x.new_empty(self.size, *x.shape)
        self._group.allgather([list(parts.unbind(0))], [x.contiguous()]).wait()
        return parts


@dataclass(frozen=True, slots=True)
class HeadShare:
    """The attention heads of one rank, as ranges over the model's heads."""

    query: slice
    kv: slice

    @property
    def num_query(self) -> int:
        """Query heads of this rank."""
        return int(self.query.stop - self.query.start)

    @property
    def num_kv(self) -> int:
        """KV heads of this rank."""
        return int(self.kv.stop - self.kv.start)


def heads_of_rank(config: ModelConfig, rank: int, size: int) -> HeadShare:
    """Cut the heads so that each rank's query heads find their KV heads on the same rank.

    Raises:
        ParameterError: this number of ranks does not fit the model.
    """
    check_size(config, size)
    query = even_slice(config.num_attention_heads, rank, size)
    kv_heads = config.num_key_value_heads
    if size <= kv_heads:
        return HeadShare(query, even_slice(kv_heads, rank, size))
    holder = rank // (size // kv_heads)
    return HeadShare(query, slice(holder, holder + 1))


def check_size(config: ModelConfig, size: int) -> None:
    """Raise ParameterError, naming the sizes that do fit, if `size` ranks can't share a layer."""
    if not _fits(config, size):
        allowed = ", ".join(str(n) for n in allowed_sizes(config))
        raise ParameterError(
            f"tensor_parallel={size} does not divide this model's {config.num_attention_heads} "
            f"query heads, {config.num_key_value_heads} KV heads and intermediate size "
            f"{config.intermediate_size}; use one of {allowed}"
        )


def allowed_sizes(config: ModelConfig) -> Sequence[int]:
    """List the numbers of ranks that this model can be cut into."""
    return [size for size in range(1, MAX_RANKS + 1) if _fits(config, size)]


def _fits(config: ModelConfig, size: int) -> bool:
    kv_heads = config.num_key_value_heads
    return (
        config.num_attention_heads % size == 0
        and config.intermediate_size % size == 0
        and (kv_heads % size == 0 or size % kv_heads == 0)
    )


def even_slice(total: int, rank: int, size: int) -> slice:
    """Cut [0, total) into `size` equal parts and return this rank's."""
    part = total // size
    assert part * size == total
    return slice(rank * part, (rank + 1) * part)


@dataclass(frozen=True, slots=True)
class VocabShare:
    """The rows of the embedding that one rank holds.

    Every rank allocates `padded` rows; the real ones come first, and `rows` may be short or empty
    on the last ranks.
    """

    rows: slice
    padded: int

    @property
    def size(self) -> int:
        """Rows that stand for a token."""
        return int(self.rows.stop - self.rows.start)


def vocab_of_rank(vocab_size: int, rank: int, size: int) -> VocabShare:
    """Cut the vocabulary into equal parts, the last ones padded if it does not divide."""
    padded = -(-vocab_size // size)
    start = min(rank * padded, vocab_size)
    return VocabShare(slice(start, min(start + padded, vocab_size)), padded)
