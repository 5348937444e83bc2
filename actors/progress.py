"""What replicas say of their work, for those who watch the job."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SILENT_AFTER_S = 15.0


@dataclass(frozen=True, slots=True)
class Report:
    """What one replica has done so far.

    Attributes:
        prompt_tokens: prompt tokens that its engine computed.
        output_tokens: tokens that its engine drew.
        units: unit in progress to (rows finished, rows that failed among them).
    """

    prompt_tokens: int
    output_tokens: int
    units: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The sum of all reports.

    Attributes:
        replicas: those that reported lately.
        prompt_tokens: as in Report, replicas that died included.
        output_tokens: likewise.
        units: unit to (rows finished, rows that failed), for units begun by anybody.
        fatal: why no replica can work, if one of them found out.
    """

    replicas: int
    prompt_tokens: int
    output_tokens: int
    units: dict[str, tuple[int, int]]
    fatal: str | None


class ProgressBoard:
    """An actor that replicas write to and the driver reads. It holds numbers, never rows.

    Args:
        attempts: unit to how many times runs before this one began it and did not end it.
    """

    def __init__(self, attempts: Mapping[str, int] | None = None) -> None:
        self._reports: dict[str, tuple[float, Report]] = {}
        self._units: dict[str, tuple[int, int]] = {}
        self._attempts = Counter(attempts)
        self._tries: Counter[str] = Counter()
        self._fatal: str | None = None

    def attempts(self, unit: str) -> int:
        """Tell how many times a unit was begun so far."""
        return self._attempts[unit]

    def begin(self, unit: str) -> int:
        """Count an attempt at a unit before it is made, and say which one it is, from 1 on."""
        self._attempts[unit] += 1
        self._units[unit] = (0, 0)
        return self._attempts[unit]

    def tried(self, task: str) -> int:
        """Count a start of a task of another kind, and say which one it is, from 1 on."""
        self._tries[task] += 1
        return self._tries[task]

    def ended(self, task: str) -> None:
        """Forget a task that did not take its process along."""
        self._tries.pop(task, None)

    def open(self) -> dict[str, int]:
        """Give the units that are being computed, each with the number of its attempt."""
        return {unit: self._attempts[unit] for unit in self._units}

    def report(self, replica: str, report: Report | None) -> None:
        """Take a replica's numbers, if it has any; `replica` is another one after each restart."""
        if report is None:
            return
        self._reports[replica] = (time.monotonic(), report)
        self._units |= {unit: rows for unit, rows in report.units.items() if unit in self._units}

    def give_up(self, reason: str) -> None:
        """Say that no replica will ever work: the job can't be run like this."""
        self._fatal = self._fatal or reason

    def read(self, done: list[str]) -> Snapshot:
        """Sum up, and forget the units that are done."""
        for unit in done:
            self._units.pop(unit, None)
            self._attempts.pop(unit, None)
        now = time.monotonic()
        reports = [report for _, report in self._reports.values()]
        return Snapshot(
            replicas=sum(now - at < SILENT_AFTER_S for at, _ in self._reports.values()),
            prompt_tokens=sum(report.prompt_tokens for report in reports),
            output_tokens=sum(report.output_tokens for report in reports),
            units=dict(self._units),
            fatal=self._fatal,
        )


@contextmanager
def started_board(attempts: Mapping[str, int]) -> Iterator[Any]:
    """Start a board beside the driver, and give its handle; its end tells replicas to end as well.

    Args:
        attempts: see ProgressBoard.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(ProgressBoard)
    board = actor.options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    ).remote(attempts)
    try:
        yield board
    finally:
        with suppress(RayError):
            ray.kill(board)


def follow(board: Any, replica: str, report: Report | None) -> None:
    """Report to the board; when it has ended, end this actor, whoever still holds it.

    Where Ray Data is cut short, its tasks and their callbacks hold each other and the replicas,
    which would keep their processors until Python happens to collect such a cycle.
    """
    try:
        board.report.remote(replica, report).future().result()
    except ActorDiedError:
        ray.kill(ray.get_runtime_context().current_actor)
    except RayError:
        pass  # it can't be reached for a while
