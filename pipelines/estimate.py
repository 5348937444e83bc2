"""How long a job will take: from a rate that is known, or else from arithmetic alone."""

from dataclasses import dataclass
from typing import Literal

from .errors import JobError
from .footprint import Weights
from .output import open_output
from .placement import Placement
from .s3 import ENVIRONMENT, S3Settings
from .timeline import throughput

# Useful operations per second that the bound assumes: about 40 % of what an H100 can do in
# bfloat16, and what one core with AVX-512 reaches in matmuls. Attention is left out.
ASSUMED_FLOPS = {"cuda": 400e12, "cpu": 100e9}

Basis = Literal["given", "like", "bound"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a job has to compute.

    Attributes:
        rows: that reach the engine.
        prompt_tokens: in them.
        completion_tokens: that are drawn.
        at_most: whether completion_tokens is a bound, as answers may end sooner.
    """

    rows: int
    prompt_tokens: int
    completion_tokens: int
    at_most: bool

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Reached:
    """What a finished job reached.

    Attributes:
        output: its folder.
        tokens_per_replica_s: prompt and completion tokens per second of one replica.
        completion_tokens_per_row: in the mean.
        model: digest of its checkpoint, if its plan has one.
    """

    output: str
    tokens_per_replica_s: float
    completion_tokens_per_row: float
    model: str | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The time that a job takes.

    Attributes:
        basis: what it rests on: a rate that was given, a job like this one, or a rough bound from
            the arithmetic that a model needs, at an assumed speed.
        tokens_per_s: prompt and completion tokens per second of the whole job.
        seconds: that it takes.
        gpu_hours: GPUs times hours; 0 on CPUs.
        replicas: that it is divided over.
        detail: what was assumed, for people.
    """

    basis: Basis
    tokens_per_s: float
    seconds: float
    gpu_hours: float
    replicas: int
    detail: str


def reached_by(url: str, s3: S3Settings = ENVIRONMENT) -> Reached:
    """Read what a job reached from its parts' receipts.

    Args:
        url: its output.
        s3: how S3 is reached.

    Raises:
        JobError: it is no output, or its parts do not say when they were computed.
    """
    output = open_output(url, s3)
    found = throughput(output.receipts(output.units).values())
    if found is None:
        raise JobError(f"{url}: its parts do not say when they were computed: take another job")
    return Reached(
        output=url,
        tokens_per_replica_s=found.tokens_per_replica_s,
        completion_tokens_per_row=found.completion_tokens / max(1, found.rows),
        model=str(output.plan.fingerprint.get("model") or "") or None,
    )


def estimate(
    work: Work,
    weights: Weights,
    placement: Placement,
    cpus: int,
    *,
    tokens_per_s: float | None,
    like: Reached | None,
) -> Estimate:
    """Divide the work by the best rate that is known.

    Args:
        work: what there is to do.
        weights: of the model.
        placement: what it runs on.
        cpus: cores of the machine, where it runs on CPUs.
        tokens_per_s: of the whole job, if somebody knows it.
        like: what a job like this one reached.
    """
    replicas = placement.most
    basis: Basis = "bound"
    if tokens_per_s is not None:
        rate, detail = tokens_per_s, "at the rate given"
        basis = "given"
    elif like is not None:
        rate = like.tokens_per_replica_s * replicas
        detail = f"{like.output} reached {like.tokens_per_replica_s:,.0f} tokens/s per replica"
        basis = "like"
    else:
        rate, detail = _bound(work, weights, placement, cpus)
    seconds = work.tokens / rate if rate else 0.0
    gpus = replicas * placement.num_gpus
    return Estimate(basis, rate, seconds, gpus * seconds / 3600, replicas, detail)


def flops(work: Work, weights: Weights) -> float:
    """Count the multiplications and additions in a job's matmuls, attention left out."""
    drawn = max(work.completion_tokens, work.rows)
    return 2.0 * (work.tokens * weights.per_token + drawn * weights.per_draw)


def _bound(work: Work, weights: Weights, placement: Placement, cpus: int) -> tuple[float, str]:
    each = ASSUMED_FLOPS[placement.device]
    count = placement.most * placement.num_gpus if placement.device == "cuda" else cpus
    unit = "GPU" if placement.device == "cuda" else "core"
    operations = flops(work, weights)
    rate = work.tokens * each * count / operations if operations else 0.0
    detail = (
        f"matmuls alone, {operations / max(1, work.tokens) / 1e9:,.3g} GFLOP per token, at an "
        f"assumed {each / 1e12:g} TFLOP/s on each {unit} ({count})"
    )
    return rate, detail
