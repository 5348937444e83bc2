"""A job on Ray Data: read and tokenize, compute and commit; one dataset row per unit.

Only Ray moves data between processes. The driver sees one receipt per part and nothing else, or the
unit, when the replicas gave it up. A replica commits what it has computed, so that no more is lost
with the cluster than the units that replicas hold.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask, TaskPoolStrategy
from ray.data.block import BlockMetadata

from actors.replica import Replica
from model.params import EngineConfig

from .commit import Receipt
from .errors import JobError
from .inputs import InputFile
from .packet import unit_label
from .placement import TASK_CPUS, Flow, Placement
from .plan import Plan, Unit
from .reader import ReadOptions, UnitRows, read_units
from .reply import read_replies
from .stopping import StopOnSignal, StopSignal
from .work import JobWork

# Units of one file that one task reads: it decodes a row group once for all of them, where a task
# for each unit would decode the group's beginning again and again.
UNITS_PER_READ = 16
# Or as many as take this share of a row group: it is then decoded some eight times, however large.
READS_PER_GROUP = 16
READS_PER_REPLICA = 2
# A replica that dies while it starts is started again, this often in a row.
INIT_DEATHS = 3
# Ray starts a task whose process ended again, without end. Nodes that are lost count here as well.
MOST_TRIES = 10
# Ray Data would run code that a Parquet file brings along (CVE-2026-41486).
UNSAFE_SWITCHES = (
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
)


class Maker(Protocol):
    """Makes packets of rows; it travels to the tasks that read."""

    @property
    def columns(self) -> Sequence[str]:
        """The input columns that it needs."""
        ...

    @property
    def read(self) -> ReadOptions:
        """How its rows are read."""
        ...

    def packet(self, rows: UnitRows, file_name: str) -> pa.Table:
        """Prepare a unit."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """What the stages know of the job."""

    plan: Plan
    maker: Maker
    work: JobWork
    engine: EngineConfig
    placement: Placement
    flow: Flow


def check_environment() -> None:
    """Refuse to start where Ray Data would unpickle what it finds in Parquet files.

    Raises:
        JobError: naming the variable.
    """
    for name in UNSAFE_SWITCHES:
        if os.environ.get(name, "0").lower() not in {"", "0", "false"}:
            raise JobError(f"{name} is set, which lets a Parquet file run code: unset it")


def receipts(
    stream: Stream, units: Sequence[Unit], board: Any, stop: StopSignal
) -> Iterator[Receipt | Unit]:
    """Compute and commit units.

    Args:
        stream: the job.
        units: those that are to be computed, in source order.
        board: a handle of the ProgressBoard actor.
        stop: ends it from elsewhere.

    Yields:
        A unit's receipt as soon as its part is there, or the unit if the replicas gave it up.

    Raises:
        ray.exceptions.RayError: a stage failed; RayTaskError's cause is what it raised.
        StreamStoppedError: it was stopped; its stages have ended.
    """
    with DataContext.current(_context(stop)):
        dataset = _dataset(stream, units, board)
    batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for batch in batches:
        yield from read_replies(batch)


def read_task(stream: Stream, unit: Unit, board: Any) -> Any:
    """Start a task that reads one unit, and give the reference to its packet."""
    file = stream.plan.files[unit.file]
    task: Any = ray.remote(_read_unit)
    return task.options(num_cpus=TASK_CPUS, max_retries=MOST_TRIES).remote(
        file, unit, stream.maker, board
    )


def _read_unit(file: InputFile, unit: Unit, maker: Maker, board: Any) -> pa.Table:
    (packet,) = _packets(file, [unit], maker, board)
    return packet


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray Data's own messages off the terminal; they stay in its log file."""
    logger = logging.getLogger("ray.data")
    levels = [(h, h.level) for h in logger.handlers if isinstance(h, logging.StreamHandler)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")
        for handler, _ in levels:
            handler.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for handler, level in levels:
                handler.setLevel(level)


def _context(stop: StopSignal) -> DataContext:
    context = DataContext.get_current().copy()
    # One row, which is one unit, per block: a smaller limit than any row makes every row a block.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    # A unit can take hours where the model is large and the machine is not.
    context.execution_no_progress_timeout_s = -1
    context.custom_execution_callback_classes = [
        *context.custom_execution_callback_classes,
        partial(StopOnSignal, stop),  # type: ignore[list-item]  # called without arguments
    ]
    return context


def _dataset(stream: Stream, units: Sequence[Unit], board: Any) -> Dataset:
    placement, flow = stream.placement, stream.flow
    runs = list(_runs(units, stream.plan))
    packets = ray.data.read_datasource(
        _Prompts(stream, runs, board),
        override_num_blocks=len(runs),
        num_cpus=TASK_CPUS,
        compute=TaskPoolStrategy(READS_PER_REPLICA * placement.most),
    )
    replies: Dataset = packets.map_batches(
        Replica,
        fn_constructor_args=(stream.engine, stream.work, board),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=placement.num_cpus,
        num_gpus=placement.num_gpus or None,
        compute=ActorPoolStrategy(
            min_size=placement.least,
            max_size=placement.most,
            max_concurrent_calls_per_actor=flow.concurrent,
            max_tasks_in_flight_per_actor=flow.in_flight,
        ),
    )
    return replies


def _packets(file: InputFile, run: Sequence[Unit], maker: Maker, board: Any) -> Iterator[pa.Table]:
    """Read units of one file that follow each other without a gap."""
    label = unit_label(file.name, Unit(run[0].file, run[0].first, run[-1].last))
    with _bounded_tries(board, f"read {run[0].key}", f"reads {label}"):
        for rows in read_units(file, run, maker.columns, maker.read):
            yield maker.packet(rows, file.name)


@contextlib.contextmanager
def _bounded_tries(board: Any, task: str, does: str) -> Iterator[None]:
    """Count how often a task takes its process along, and end the job when it always does.

    Raises:
        JobError: it is not worth another try.
    """
    tries = ray.get(board.tried.remote(task))
    if tries > MOST_TRIES:
        raise JobError(
            f"the task that {does} ended its process {tries - 1} times: see its log; if it is the "
            "input's fault, take these rows out of it"
        )
    yield
    board.ended.remote(task)


class _Prompts(Datasource):
    """Units as packets; each read task makes those of one run of units."""

    def __init__(self, stream: Stream, runs: Sequence[Sequence[Unit]], board: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._files = stream.plan.files
        self._runs = runs
        self._maker = ray.put(stream.maker)
        self._board = board

    def estimate_inmemory_data_size(self) -> int | None:
        """Leave it to Ray Data to find out."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - the runs are fixed
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Give one task per run."""
        return [self._task(run, per_task_row_limit) for run in self._runs]

    def _task(self, run: Sequence[Unit], row_limit: int | None) -> ReadTask:
        file, maker_ref, board = self._files[run[0].file], self._maker, self._board

        def read() -> Iterable[pa.Table]:
            yield from _packets(file, run, ray.get(maker_ref), board)

        size = BlockMetadata(num_rows=len(run), size_bytes=None, exec_stats=None, input_files=None)
        return ReadTask(read, size, per_task_row_limit=row_limit)


def _runs(units: Iterable[Unit], plan: Plan) -> Iterator[list[Unit]]:
    """Cut units into runs that follow each other without a gap in one file."""
    run: list[Unit] = []
    for unit in units:
        follows = run and (unit.file, unit.first) == (run[-1].file, run[-1].last)
        share = plan.files[unit.file].span // (READS_PER_GROUP * plan.unit_rows)
        if run and (not follows or len(run) >= max(UNITS_PER_READ, share)):
            yield run
            run = []
        run.append(unit)
    if run:
        yield run
