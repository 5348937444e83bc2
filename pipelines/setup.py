"""Everything about a job that is settled before the first row is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from .checkpoint_info import CheckpointInfo, inspect_checkpoint
from .fingerprint import fingerprint
from .inputs import survey
from .job import JobSpec
from .jobfile import save_job
from .listing import find_files, refuse_output_among_inputs
from .placement import Flow, Placement, flow, place
from .plan import Plan, join_or_start, make_plan, planned_files, record_quarantine
from .prepare import Preparer
from .prompts import PromptSource
from .schema import check_columns, output_schema, read_columns
from .sink import NewParts
from .storage import Store, open_store, parse_location, probe
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
            store=self.store,
            maker=Preparer.of(self.spec, checkpoint, self.tasks, self.kept),
            work=JobWork(self.tasks, self.plan.seed, self.store),
            sink=NewParts(self.store, self.plan, self.schema),
            engine=engine,
            placement=placement,
            flow=held,
        )


def set_up(spec: JobSpec, nodes: Sequence[Mapping[str, float]]) -> Job:
    """Check a job against its model, its inputs, the cluster and its output, and plan it.

    Args:
        spec: the job.
        nodes: Ray's resources of each living node.

    Raises:
        GemmarayError: the job can't run; nothing was computed.
    """
    placement = place(spec.resources, nodes)
    checkpoint = inspect_checkpoint(spec)
    tasks = tasks_of(spec, checkpoint)
    source = PromptSource.of(spec)

    files = find_files(spec.input, spec.s3)
    refuse_output_among_inputs(spec.input, files, spec.output)
    store = open_store(spec.output, spec.s3)
    found = survey(
        files,
        read_columns(source, spec.keep),
        quarantine=spec.on_bad_file == "quarantine",
        known=planned_files(store),
        s3=spec.s3,
    )
    kept = check_columns(found.footers, source, spec.keep)
    schema = output_schema(kept, tasks)

    probe(store)
    store.sweep()
    mine = make_plan(
        fingerprint(spec, checkpoint, kept),
        [footer.file for footer in found.footers],
        limit=spec.limit,
        unit_rows=spec.unit_rows,
        placement=placement,
        seed=spec.tasks.generate.seed if spec.tasks.generate else None,
        quarantine=found.quarantined,
    )
    plan, joined = join_or_start(store, mine, unit_rows_given=spec.unit_rows is not None)
    save_job(store, _anywhere(spec, checkpoint))
    record_quarantine(store, plan)
    return Job(spec, checkpoint, tasks, kept, schema, store, plan, joined, placement)


def _anywhere(spec: JobSpec, checkpoint: CheckpointInfo) -> JobSpec:
    """Write a job so that it means the same in whatever folder it is read."""
    return spec.model_copy(
        update={
            "input": tuple(str(parse_location(path)) for path in spec.input),
            "output": str(parse_location(spec.output)),
            "model": checkpoint.checkpoint,
            "revision": checkpoint.revision,
        }
    )
