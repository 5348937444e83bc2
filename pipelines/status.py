"""How far a job is, seen from outside: any process that can read the output can tell.

What is done is known from one listing. Rates, errors and replicas stand in the parts' receipts, of
which only the latest and a sample of the others are read.
"""

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .commit import Receipt
from .output import Output, open_output
from .plan import Unit
from .s3 import ENVIRONMENT, S3Settings

# The latest parts, from which rates are taken, and as many of the others, from which errors are.
SAMPLED_PARTS = 64
WINDOW_S = 600.0
# A job is taken to be running for this long after its last part, or for this many times what its
# longest unit took lately.
PATIENCE_S = 120.0
PATIENCE_UNITS = 3.0

State = Literal["planned", "running", "stopped", "complete"]
Finished = tuple[float, Receipt]  # when, in unix seconds, and what


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica that finished units lately.

    Attributes:
        replica: its id.
        parts: that it finished.
        rows: in them.
        last: seconds since the last of them.
    """

    replica: str
    parts: int
    rows: int
    last: float


@dataclass(frozen=True, slots=True)
class Rate:
    """What was done lately.

    Attributes:
        seconds: that it was taken over.
        rows: per second.
        tokens: prompt and generated tokens per second.
    """

    seconds: float
    rows: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Status:
    """How far a job is.

    Attributes:
        output: the folder.
        plan: id of its plan.
        state: "running" where a part came lately, "stopped" where none did.
        parts: that are there.
        parts_planned: of the whole job.
        rows: in the parts that are there.
        rows_planned: of the whole job.
        last_part: seconds since the last part came; None before the first.
        rate: None where nothing can be said.
        eta: seconds until the end at this rate; None unless it is running.
        failed: rows with an error, in the parts whose receipts were read.
        failed_of: rows of these parts; with all rows looked at, `failed` is exact.
        damaged: parts whose receipts can't be read.
        replicas: at work lately, the last first.
        strays: Parquet files in the folder that are no part of the plan.
    """

    output: str
    plan: str
    state: State
    parts: int
    parts_planned: int
    rows: int
    rows_planned: int
    last_part: float | None
    rate: Rate | None
    eta: float | None
    failed: int
    failed_of: int
    damaged: int
    replicas: tuple[ReplicaStatus, ...]
    strays: int


def read_status(
    url: str, s3: S3Settings = ENVIRONMENT, *, full: bool = False, now: float | None = None
) -> Status:
    """Look at an output.

    Args:
        url: the output folder.
        s3: how S3 is reached.
        full: read every receipt, so that errors are counted and not estimated.
        now: the time in unix seconds; None asks the clock.

    Raises:
        JobError: it holds no job, or can't be reached.
    """
    output = open_output(url, s3)
    now = time.time() if now is None else now
    latest = _latest(output)
    asked = set(output.units) if full else {*latest, *_sample(output, latest)}
    receipts = output.receipts(asked)
    ends = {unit: _end(output, unit, receipts) for unit in latest}
    lately = [(ends[u], receipts[u]) for u in sorted(latest, key=ends.__getitem__) if u in receipts]
    last = max(ends.values(), default=None)
    state = _state(output, lately, last, now)
    rate = _rate(lately)
    rows, planned = sum(unit.rows for unit in output.units), output.plan.total_rows
    return Status(
        output=output.url,
        plan=output.plan.id,
        state=state,
        parts=len(output.units),
        parts_planned=sum(1 for _ in output.plan.units()),
        rows=rows,
        rows_planned=planned,
        last_part=None if last is None else max(0.0, now - last),
        rate=rate,
        eta=(planned - rows) / rate.rows if rate and rate.rows and state == "running" else None,
        failed=sum(receipt.failed for receipt in receipts.values()),
        failed_of=sum(receipt.rows for receipt in receipts.values()),
        damaged=len(asked) - len(receipts),
        replicas=_replicas(lately, now),
        strays=len(output.strays),
    )


def _latest(output: Output) -> list[Unit]:
    """Choose the parts that came in the last minutes of the job's work, not too many of them."""
    newest = sorted(output.units, key=output.changed_at, reverse=True)[:SAMPLED_PARTS]
    return [u for u in newest if output.changed_at(u) >= output.changed_at(newest[0]) - WINDOW_S]


def _sample(output: Output, latest: Sequence[Unit]) -> list[Unit]:
    """Draw from the other parts: the same ones each time, while no part comes."""
    others = sorted(set(output.units) - set(latest))
    return random.Random(len(others)).sample(others, min(SAMPLED_PARTS, len(others)))  # noqa: S311


def _end(output: Output, unit: Unit, receipts: Mapping[Unit, Receipt]) -> float:
    """Tell when a unit was finished; parts of older versions only have the file's own time."""
    receipt = receipts.get(unit)
    return (receipt.finished if receipt else 0.0) or output.changed_at(unit)


def _state(output: Output, lately: Sequence[Finished], last: float | None, now: float) -> State:
    if output.is_complete:
        return "complete"
    if last is None:
        return "planned"
    longest = max((receipt.finished - receipt.begun for _, receipt in lately), default=0.0)
    return "running" if now - last <= max(PATIENCE_S, PATIENCE_UNITS * longest) else "stopped"


def _rate(lately: Sequence[Finished]) -> Rate | None:
    """Take what came after the first of the latest parts, or a single part's own time."""
    if not lately:
        return None
    (first, receipt), (end, _) = lately[0], lately[-1]
    counted = [receipt for _, receipt in lately[1:]]
    seconds = end - first
    if seconds <= 0:
        counted, seconds = [receipt for _, receipt in lately], receipt.finished - receipt.begun
    if seconds <= 0:
        return None
    tokens = sum(receipt.prompt_tokens + receipt.completion_tokens for receipt in counted)
    return Rate(seconds, sum(receipt.rows for receipt in counted) / seconds, tokens / seconds)


def _replicas(lately: Sequence[Finished], now: float) -> tuple[ReplicaStatus, ...]:
    by_replica: dict[str, list[Finished]] = defaultdict(list)
    for end, receipt in lately:
        if receipt.replica:
            by_replica[receipt.replica].append((end, receipt))
    found = [
        ReplicaStatus(
            replica, len(parts), sum(part.rows for _, part in parts), max(0.0, now - parts[-1][0])
        )
        for replica, parts in by_replica.items()
    ]
    return tuple(sorted(found, key=lambda status: status.last))
