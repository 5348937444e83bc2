"""Everything about a job that is settled before the first row is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from .checkpoint_info import CheckpointInfo, inspect_checkpoint
from .errors import Faults
from .fingerprint import fingerprint
from .inputs import Footer, InputFile, find_files, read_footers, refuse_output_among_inputs
from .job import JobSpec
from .placement import Flow, Placement, flow, place
from .plan import Plan, join_or_start, make_plan
from .prepare import Preparer
from .prompts import PromptSource
from .schema import check_columns, output_schema, read_columns
from .storage import Store, open_store, probe
from .stream import Stream
from .tasks import JobTasks, tasks_of
from .work import JobWork


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is ready to run.

    Attributes:
        spec: as the user wrote it.
        checkpoint: its model.
        tasks: what is computed for each row.
        kept: the kept columns.
        schema: of the output.
        store: the output.
        plan: shared with all runs of this job.
        joined: whether the plan was there before this run.
        placement: replicas and their share of the cluster.
    """

    spec: JobSpec
    checkpoint: CheckpointInfo
    tasks: JobTasks
    kept: pa.Schema
    schema: pa.Schema
    store: Store
    plan: Plan
    joined: bool
    placement: Placement

    def stream(self, units: int) -> Stream:
        """Give what the stages of the run need to know, for so many units to compute."""
        checkpoint, placement = self.checkpoint, self.placement
        engine = self.spec.engine_config(
            checkpoint.checkpoint,
            checkpoint.revision,
            device=placement.device,
            threads=placement.threads,
            kv_cache_bytes=placement.kv_cache_bytes,
        )
        held: Flow = flow(self.spec.resources, self.plan.unit_rows, units, placement.most)
        return Stream(
            plan=self.plan,
            output=self.store.url,
            schema=self.schema,
            preparer=Preparer.of(self.spec, checkpoint, self.tasks, self.kept),
            work=JobWork(self.tasks, self.plan.seed),
            engine=engine,
            placement=placement,
            flow=held,
        )


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job that fits its model, its inputs and its cluster; nothing has been written yet.

    Attributes:
        spec: as the user wrote it.
        checkpoint: its model.
        tasks: what is computed for each row.
        files: the inputs.
        kept: the kept columns.
        schema: of the output.
        placement: replicas and their share of the cluster.
    """

    spec: JobSpec
    checkpoint: CheckpointInfo
    tasks: JobTasks
    files: tuple[InputFile, ...]
    kept: pa.Schema
    schema: pa.Schema
    placement: Placement

    def plan(self) -> Plan:
        """Plan it from the start."""
        spec = self.spec
        return make_plan(
            fingerprint(spec, self.checkpoint, self.kept),
            self.files,
            limit=spec.limit,
            unit_rows=spec.unit_rows,
            placement=self.placement,
            seed=spec.tasks.generate.seed if spec.tasks.generate else None,
        )


def check(spec: JobSpec, nodes: Sequence[Mapping[str, float]]) -> CheckedJob:
    """Check a job against its model, its inputs and the cluster, without writing anything.

    Args:
        spec: the job.
        nodes: Ray's resources of each living node.

    Raises:
        GemmarayError: the job can't run; all that is wrong with it stands in the one message.
    """
    faults = Faults()
    placement = faults.attempt(partial(place, spec.resources, nodes))
    checkpoint = faults.attempt(partial(inspect_checkpoint, spec))
    tasks = faults.attempt(partial(tasks_of, spec, checkpoint)) if checkpoint else None

    source = PromptSource.of(spec)
    found = faults.attempt(partial(find_files, spec.input))
    footers: list[Footer] | None = None
    kept: pa.Schema | None = None
    schema: pa.Schema | None = None
    if found is not None:
        faults.attempt(partial(refuse_output_among_inputs, spec.input, found, spec.output))
        columns = read_columns(source, spec.keep)
        footers = faults.attempt(partial(read_footers, found, columns))
    if footers is not None:
        kept = faults.attempt(partial(check_columns, footers, source, spec.keep))
    if kept is not None and tasks:
        schema = faults.attempt(partial(output_schema, kept, tasks))
    faults.end()

    assert placement is not None
    assert checkpoint is not None
    assert tasks is not None
    assert footers is not None
    assert kept is not None
    assert schema is not None
    files = tuple(footer.file for footer in footers)
    return CheckedJob(spec, checkpoint, tasks, files, kept, schema, placement)


def set_up(spec: JobSpec, nodes: Sequence[Mapping[str, float]]) -> Job:
    """Check a job against its model, its inputs, the cluster and its output, and plan it.

    Args:
        spec: the job.
        nodes: Ray's resources of each living node.

    Raises:
        GemmarayError: the job can't run; nothing was computed.
    """
    job = check(spec, nodes)
    store = open_store(spec.output)
    probe(store)
    plan, joined = join_or_start(store, job.plan(), unit_rows_given=spec.unit_rows is not None)
    return Job(
        spec, job.checkpoint, job.tasks, job.kept, job.schema, store, plan, joined, job.placement
    )
