"""When a job worked, and how fast: from the times that its parts' receipts hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .commit import Receipt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of a job's time.

    Attributes:
        at: its start, in seconds from the job's first.
        rows: per second.
        prompt_tokens: per second.
        completion_tokens: per second.
        replicas: that had a unit in work.
    """

    at: float
    rows: float
    prompt_tokens: float
    completion_tokens: float
    replicas: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a job reached.

    Attributes:
        seconds: in which at least one replica was at work; pauses are left out.
        replica_seconds: the same, of all replicas together.
        rows: that were computed.
        prompt_tokens: in them.
        completion_tokens: in them.
    """

    seconds: float
    replica_seconds: float
    rows: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Prompt and generated tokens per second, of all replicas together."""
        return self._tokens / self.seconds

    @property
    def tokens_per_replica_s(self) -> float:
        """Prompt and generated tokens per second of one replica."""
        return self._tokens / self.replica_seconds

    @property
    def _tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def throughput(receipts: Iterable[Receipt]) -> Throughput | None:
    """Sum up a job; None where its parts do not say when they were computed."""
    timed = [receipt for receipt in receipts if _is_timed(receipt)]
    by_replica: dict[str, list[Interval]] = {}
    for receipt in timed:
        by_replica.setdefault(receipt.replica, []).append((receipt.begun, receipt.finished))
    seconds = covered(interval for group in by_replica.values() for interval in group)
    if not seconds:
        return None
    return Throughput(
        seconds=seconds,
        replica_seconds=sum(covered(group) for group in by_replica.values()),
        rows=sum(receipt.rows for receipt in timed),
        prompt_tokens=sum(receipt.prompt_tokens for receipt in timed),
        completion_tokens=sum(receipt.completion_tokens for receipt in timed),
    )


def covered(intervals: Iterable[Interval]) -> float:
    """Measure the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def moments(receipts: Sequence[Receipt], count: int) -> list[Moment]:
    """Cut a job's time into equal stretches, and say what was done in each.

    What a unit holds is spread evenly over the time that it was in work. Empty where the parts do
    not say when they were computed.
    """
    timed = [receipt for receipt in receipts if _is_timed(receipt)]
    if not timed:
        return []
    start = min(receipt.begun for receipt in timed)
    begun = np.array([receipt.begun - start for receipt in timed])
    finished = np.array([receipt.finished - start for receipt in timed])
    edges = np.linspace(0.0, finished.max(), count + 1)
    width = float(edges[1] - edges[0])
    rows, prompts, completions = (
        np.diff(_done_by(edges, begun, finished, np.array(amounts, np.float64))) / width
        for amounts in (
            [receipt.rows for receipt in timed],
            [receipt.prompt_tokens for receipt in timed],
            [receipt.completion_tokens for receipt in timed],
        )
    )
    _, replicas = np.unique([receipt.replica for receipt in timed], return_inverse=True)
    return [
        Moment(
            at=float(low),
            rows=float(rows[index]),
            prompt_tokens=float(prompts[index]),
            completion_tokens=float(completions[index]),
            replicas=len(np.unique(replicas[(begun < high) & (finished > low)])),
        )
        for index, (low, high) in enumerate(pairwise(edges))
    ]


def _is_timed(receipt: Receipt) -> bool:
    return receipt.rows > 0 and 0 < receipt.begun < receipt.finished


def _done_by(edges: Floats, begun: Floats, finished: Floats, amounts: Floats) -> Floats:
    """Give how much was done at each of the edges."""
    length = finished - begun
    return np.array([np.sum(amounts * np.clip((e - begun) / length, 0.0, 1.0)) for e in edges])
