"""What can be found out about a job before it touches its output: whether it can run at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from model.quantization_config import check_device

from .checkpoint_info import CheckpointInfo, inspect_checkpoint
from .errors import Faults
from .fingerprint import fingerprint
from .inputs import InputFile, Survey, survey
from .job import JobSpec
from .listing import find_files, refuse_output_among_inputs
from .locations import Location
from .placement import Placement, place
from .plan import Plan, make_plan, planned_files
from .prompts import PromptSource
from .quarantine import BadFile
from .schema import check_columns, output_schema, read_columns
from .storage import open_store
from .tasks import JobTasks, tasks_of


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job that fits its model, its inputs and its cluster; nothing has been written yet.

    Attributes:
        spec: as the user wrote it.
        checkpoint: its model.
        tasks: what is computed for each row.
        files: the inputs.
        quarantined: input files that take no part, since they can't be used.
        kept: the kept columns.
        schema: of the output.
        placement: replicas and their share of the cluster.
    """

    spec: JobSpec
    checkpoint: CheckpointInfo
    tasks: JobTasks
    files: tuple[InputFile, ...]
    quarantined: tuple[BadFile, ...]
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
            unit_rows=spec.unit_rows or self.tasks.unit_rows,
            placement=self.placement,
            seed=spec.tasks.generate.seed if spec.tasks.generate else None,
            quarantine=self.quarantined,
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
    if placement and checkpoint:
        faults.attempt(partial(check_device, checkpoint.quantization, placement.device))

    source = PromptSource.of(spec)
    files = faults.attempt(partial(find_files, spec.input, spec.s3))
    found: Survey | None = None
    kept: pa.Schema | None = None
    schema: pa.Schema | None = None
    if files is not None:
        faults.attempt(partial(refuse_output_among_inputs, spec.input, files, spec.output))
        found = faults.attempt(partial(_survey, spec, source, files))
    if found is not None:
        kept = faults.attempt(partial(check_columns, found.footers, source, spec.kept_columns))
    if kept is not None and tasks:
        schema = faults.attempt(partial(output_schema, kept, tasks))
    faults.end()

    assert placement is not None
    assert checkpoint is not None
    assert tasks is not None
    assert found is not None
    assert kept is not None
    assert schema is not None
    inputs = tuple(footer.file for footer in found.footers)
    bad = tuple(found.quarantined)
    return CheckedJob(spec, checkpoint, tasks, inputs, bad, kept, schema, placement)


def _survey(spec: JobSpec, source: PromptSource, files: Sequence[Location]) -> Survey:
    return survey(
        files,
        read_columns(source, spec.kept_columns),
        quarantine=spec.on_bad_file == "quarantine",
        known=planned_files(open_store(spec.output, spec.s3)),
        s3=spec.s3,
    )
