"""Everything about a job that is settled before the first row is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from .check import check
from .checkpoint_info import CheckpointInfo
from .job import JobSpec
from .jobfile import save_job
from .locations import parse_location
from .placement import Flow, Placement, flow
from .plan import Plan, join_or_start, record_quarantine
from .prepare import Preparer
from .sink import NewParts
from .storage import Store, open_store, probe
from .stream import Stream
from .tasks import JobTasks
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
        engine = checkpoint.engine_config(
            self.spec,
            device=placement.device,
            threads=placement.threads,
            kv_cache_bytes=placement.kv_cache_bytes,
        )
        held: Flow = flow(self.spec.resources, self.plan.unit_rows, units, placement.most)
        return Stream(
            plan=self.plan,
            maker=Preparer.of(self.spec, checkpoint, self.tasks, self.kept),
            work=JobWork(self.tasks, self.plan.seed, NewParts(self.store, self.plan, self.schema)),
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
    job = check(spec, nodes)
    store = open_store(spec.output, spec.s3)
    probe(store)
    store.sweep()
    plan, joined = join_or_start(store, job.plan(), unit_rows_given=spec.unit_rows is not None)
    save_job(store, _anywhere(spec, job.checkpoint))
    record_quarantine(store, plan)
    return Job(
        spec, job.checkpoint, job.tasks, job.kept, job.schema, store, plan, joined, job.placement
    )


def _anywhere(spec: JobSpec, checkpoint: CheckpointInfo) -> JobSpec:
    """Write a job so that it means the same in whatever folder it is read."""
    return spec.model_copy(
        update={
            "input": tuple(str(parse_location(path)) for path in spec.input),
            "output": str(parse_location(spec.output)),
            "model": checkpoint.checkpoint,
            "revision": checkpoint.revision,
            "adapter": checkpoint.adapter.path if checkpoint.adapter else None,
            "adapters": {name: adapter.path for name, adapter in checkpoint.adapters.items()},
        }
    )
