"""How many replicas run, and what each of them may use.

Every replica leaves room on its node for the small tasks that read, since with none of them left
the replicas would wait for ever. On a node of 2 CPUs that makes 1 CPU for one replica and 0.75 for
each of two. These are Ray's units of scheduling; the engine computes with `threads` threads, which
together fill the node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

from .errors import JobError
from .job import Resources

# What one task that reads or commits takes, and what is kept free for two of them on each node. No
# replica takes as much as a task, so Ray Data never fuses the two.
TASK_CPUS = 0.2
NODE_RESERVE = 2 * TASK_CPUS
STEP = 0.25
# Of the memory that Ray counts on a CPU node, for the KV caches of all its replicas together. An
# engine by itself would take a quarter of what is free, and so would the one beside it.
KV_CACHE_SHARE = 0.4

# Sequences that an engine runs by default; see EngineConfig.
DEFAULT_SEQUENCES = 256
MAX_CONCURRENT_UNITS = 64


@dataclass(frozen=True, slots=True)
class Placement:
    """What the job runs on.

    Attributes:
        device: of the engines.
        least: replicas that are started at once.
        most: replicas that may run under load.
        num_cpus: of each, for Ray's scheduler.
        num_gpus: of each.
        threads: CPU threads of each rank; None leaves the engine's default.
        kv_cache_bytes: KV cache of each rank; None leaves the engine's default.
    """

    device: Literal["cpu", "cuda"]
    least: int
    most: int
    num_cpus: float
    num_gpus: int
    threads: int | None
    kv_cache_bytes: int | None


@dataclass(frozen=True, slots=True)
class Flow:
    """How many units a replica holds.

    Attributes:
        concurrent: units whose rows are in the engine.
        in_flight: those, and the ones that wait beside it.
    """

    concurrent: int
    in_flight: int


def place(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> Placement:
    """Choose replicas and their share of the nodes.

    Args:
        resources: what the job asks for.
        nodes: Ray's resources of each living node.

    Raises:
        JobError: no node can hold one replica.
    """
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if resources.device == "cuda" or (resources.device == "auto" and max(gpus, default=0) > 0):
        return _on_gpus(resources, nodes, gpus)
    nodes = [node for node in nodes if node.get("CPU", 0) > 0]
    if not nodes:
        raise JobError("no node of the cluster has CPUs to compute with")
    cpus = min(node["CPU"] for node in nodes)
    least, most = resources.replica_range or (len(nodes), len(nodes))
    per_node = ceil(most / len(nodes))
    share = _share(cpus, per_node)
    if share <= 0:
        raise JobError(
            f"resources.replicas: {per_node} replicas do not fit on a node of {cpus:g} CPUs"
        )
    ranks = per_node * resources.tensor_parallel
    memory = min(node.get("memory", 0) for node in nodes)
    return Placement(
        device="cpu",
        least=least,
        most=most,
        num_cpus=share,
        num_gpus=0,
        threads=resources.threads or max(1, int(cpus) // ranks),
        kv_cache_bytes=resources.kv_cache_bytes or int(memory * KV_CACHE_SHARE) // ranks or None,
    )


def flow(resources: Resources, unit_rows: int, units: int, replicas: int) -> Flow:
    """Choose how many units a replica holds: enough that its engine never drains between them.

    That is units for all sequences, one of which only the last rows are left, and one that is being
    committed. A replica that is up before the others must not take their units, so none holds more
    than its share. Above that, twice the concurrency waits, as Ray Data only adds replicas when the
    ones there are have more than 1.75 times what they can take.
    """
    sequences = resources.max_sequences or DEFAULT_SEQUENCES
    concurrent = min(ceil(sequences / unit_rows) + 2, MAX_CONCURRENT_UNITS)
    in_flight = max(1, min(2 * concurrent, ceil(units / replicas)))
    return Flow(min(concurrent, in_flight), in_flight)


def _on_gpus(
    resources: Resources, nodes: Sequence[Mapping[str, float]], gpus: Sequence[int]
) -> Placement:
    size = resources.tensor_parallel
    groups = [count // size for count in gpus]
    if sum(groups) == 0:
        raise JobError(
            f"no node of the cluster has {size} GPUs (the most is {max(gpus, default=0)}): lower "
            "tensor_parallel, or ask for device: cpu"
        )
    least, most = resources.replica_range or (sum(groups), sum(groups))
    shares = [
        _share(node.get("CPU", 0), count)
        for node, count in zip(nodes, groups, strict=True)
        if count
    ]
    return Placement(
        device="cuda",
        least=least,
        most=most,
        num_cpus=max(0.0, min(1.0, *shares)),
        num_gpus=size,
        threads=resources.threads,
        kv_cache_bytes=resources.kv_cache_bytes,
    )


def _share(cpus: float, replicas: int) -> float:
    """Divide a node: whole CPUs, or quarters of one."""
    share = (cpus - NODE_RESERVE) / replicas
    return float(floor(share)) if share >= 1 else floor(share / STEP) * STEP
