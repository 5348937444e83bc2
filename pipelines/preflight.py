"""What a job will read, hold and take, before anything is started or written.

The job is checked as a run would check it, all but one thing: whether the output can be written,
since that takes writing to it.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import psutil

from .check import CheckedJob, check
from .errors import Faults, StorageError
from .estimate import Estimate, Reached, Work, estimate, reached_by
from .footprint import CacheRoom, Weights, cache_room, gpus_here, memory_here, weigh
from .job import JobSpec
from .locations import STORE_ERRORS
from .output import open_output
from .plan import Plan, join
from .prepare import Preparer
from .sample import SAMPLE_ROWS, Sample, take_sample
from .storage import open_store

CPUS_PER_GPU = 8


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the job is planned for; what is None is taken from this machine.

    Attributes:
        gpus: of one node.
        memory: bytes of each GPU, or of a node without any.
    """

    gpus: int | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found out about a job.

    Attributes:
        job: the job, checked.
        plan: its plan, which is the output's where that has one.
        resumed: parts that are there already; None where the output holds no job yet.
        file_bytes: of all inputs.
        row_groups: of all inputs.
        units: that its rows are cut into: so many parts.
        sample: what some of its rows look like.
        weights: of its model.
        cache: room for keys and values; None where nothing is known of the memory.
        memory: bytes that the cache was worked out for.
        work: what is to be computed, all rows included.
        time: that it takes.
        notes: what else is worth knowing.
    """

    job: CheckedJob
    plan: Plan
    resumed: int | None
    file_bytes: int
    row_groups: int
    units: int
    sample: Sample
    weights: Weights
    cache: CacheRoom | None
    memory: int | None
    work: Work
    time: Estimate
    notes: tuple[str, ...]


def preflight(
    spec: JobSpec,
    *,
    hardware: Hardware | None = None,
    tokens_per_s: float | None = None,
    like: str | None = None,
    sample_rows: int = SAMPLE_ROWS,
    seed: int = 0,
) -> Preflight:
    """Look at a job without running it.

    Args:
        spec: the job.
        hardware: what it is to run on.
        tokens_per_s: prompt and completion tokens per second that it will reach.
        like: the output of a job like this one, which tells how fast it was.
        sample_rows: how many rows to look at, at most.
        seed: which ones.

    Raises:
        GemmarayError: the job can't run; all that is wrong with it stands in the one message.
    """
    hardware = hardware or Hardware()
    faults = Faults()
    job = faults.attempt(partial(check, spec, [node(hardware)]))
    reached = faults.attempt(partial(reached_by, like, spec.s3)) if like else None
    joined = faults.attempt(partial(_planned, job)) if job else None
    faults.end()
    assert job is not None
    assert joined is not None
    plan, resumed = joined

    resources, config = spec.resources, job.checkpoint.config
    preparer = Preparer.of(spec, job.checkpoint, job.tasks, job.kept)
    sample = take_sample(plan, preparer, sample_rows, seed)
    weights = weigh(
        config,
        job.checkpoint.dtype,
        job.checkpoint.quantization,
        resources.tensor_parallel,
        sum(adapter.numbers for adapter in job.checkpoint.adapters.values()),
    )
    memory = hardware.memory or memory_here(job.placement.device)
    cache = None
    if memory is not None:
        lengths = _lengths(sample, job.tasks.reserve, job.checkpoint.max_model_len)
        cache = cache_room(
            config, job.checkpoint.dtype, resources, job.placement, weights, memory, lengths
        )
    work = _work(job, plan, sample, reached)
    cpus = int(node(hardware)["CPU"])
    return Preflight(
        job=job,
        plan=plan,
        resumed=resumed,
        file_bytes=sum(file.size for file in plan.files),
        row_groups=sum(len(file.groups) for file in plan.files),
        units=sum(1 for _ in plan.units()),
        sample=sample,
        weights=weights,
        cache=cache,
        memory=memory,
        work=work,
        time=estimate(work, weights, job.placement, cpus, tokens_per_s=tokens_per_s, like=reached),
        notes=tuple(_notes(job, resumed, memory, reached)),
    )


def node(hardware: Hardware) -> Mapping[str, float]:
    """Give the resources of the one node that a job is planned for, as Ray would count them."""
    cpus = len(os.sched_getaffinity(0))
    if hardware.gpus is None:
        gpus = gpus_here()
    else:
        gpus = hardware.gpus
        cpus = max(cpus, CPUS_PER_GPU * gpus)
    memory = psutil.virtual_memory().available if gpus or not hardware.memory else hardware.memory
    return {"CPU": float(cpus), "GPU": float(gpus), "memory": float(memory)}


def _planned(job: CheckedJob) -> tuple[Plan, int | None]:
    """Give the job's plan, or the output's, and how many parts that has; None for no plan yet."""
    spec, mine = job.spec, job.plan()
    try:
        plan = join(
            open_store(spec.output, spec.s3), mine, unit_rows_given=spec.unit_rows is not None
        )
    except FileNotFoundError:
        return mine, None
    except STORE_ERRORS as error:
        raise StorageError(f"{spec.output} can't be read: {error}") from error
    return plan, len(open_output(spec.output, spec.s3).units)


def _lengths(sample: Sample, reserve: int, longest: int) -> tuple[int, ...]:
    """Choose lengths of sequences that say something of this job: usual, long, the longest."""
    prompts = (round(sample.good.mean), sample.good.percentile(0.95))
    return tuple(sorted({*(min(prompt + reserve, longest) for prompt in prompts), longest}))


def _work(job: CheckedJob, plan: Plan, sample: Sample, reached: Reached | None) -> Work:
    """Scale the sample up to the whole job."""
    rows = round(plan.total_rows * len(sample.good) / max(1, sample.rows))
    settings = job.spec.tasks.generate
    answer: float = settings.max_tokens if settings else 0
    if reached and settings:
        answer = reached.completion_tokens_per_row
    return Work(
        rows=rows,
        prompt_tokens=round(sample.good.mean * rows),
        completion_tokens=round(answer * rows),
        at_most=settings is not None and reached is None,
    )


def _notes(
    job: CheckedJob, resumed: int | None, memory: int | None, reached: Reached | None
) -> Iterator[str]:
    if resumed is not None:
        yield f"the output holds this job already, {resumed} parts of it: a run goes on from there"
    if job.quarantined:
        names = ", ".join(file.name for file in job.quarantined)
        yield f"{len(job.quarantined)} input files can't be used and are left out: {names}"
    if memory is None:
        yield "there is no GPU here: say --memory to learn what the KV cache has room for"
    if reached and reached.model and reached.model != job.checkpoint.digest:
        yield f"{reached.output} was computed with another checkpoint"
    yield f"whether {job.spec.output} can be written was not tried: that takes writing to it"
