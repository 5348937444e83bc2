from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import JobError
from pipelines.job import Resources
from pipelines.placement import NODE_RESERVE, TASK_CPUS, flow, place

GPU_NODE = {"CPU": 16.0, "GPU": 4.0}


def cpus(*counts: float) -> list[dict[str, float]]:
    return [{"CPU": count} for count in counts]


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        # least, most, CPUs for the scheduler, GPUs, threads
        (cpus(2), {}, (1, 1, 1.0, 0, 2)),
        (cpus(2), {"replicas": 2}, (2, 2, 0.75, 0, 1)),
        (cpus(1), {}, (1, 1, 0.5, 0, 1)),
        (cpus(1), {"replicas": 2}, (2, 2, 0.25, 0, 1)),
        (cpus(8, 8), {}, (2, 2, 7.0, 0, 8)),
        (cpus(8, 8), {"replicas": "1..4"}, (1, 4, 3.0, 0, 4)),
        (cpus(8), {"tensor_parallel": 2}, (1, 1, 7.0, 0, 4)),
        (cpus(8), {"threads": 3}, (1, 1, 7.0, 0, 3)),
        ([{"CPU": 0.0}, {"CPU": 4.0}], {}, (1, 1, 3.0, 0, 4)),
        ([GPU_NODE], {}, (4, 4, 1.0, 1, None)),
        ([GPU_NODE], {"tensor_parallel": 2}, (2, 2, 1.0, 2, None)),
        ([GPU_NODE, *cpus(4)], {"replicas": "1..3"}, (1, 3, 1.0, 1, None)),
        ([{"CPU": 2.0, "GPU": 2.0}], {}, (2, 2, 0.75, 1, None)),
        ([GPU_NODE], {"device": "cpu"}, (1, 1, 15.0, 0, 16)),
    ],
)
def test_replicas_and_their_share(
    nodes: list[dict[str, float]], resources: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    made = place(Resources(**resources), nodes)
    assert (made.least, made.most, made.num_cpus, made.num_gpus, made.threads) == expected
    assert made.device == ("cuda" if made.num_gpus else "cpu")


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        ([{"CPU": 8.0, "memory": 10e9}], {}, 4_000_000_000),
        ([{"CPU": 8.0, "memory": 10e9}], {"replicas": 2, "tensor_parallel": 2}, 1_000_000_000),
        ([{"CPU": 8.0, "memory": 10e9}, {"CPU": 8.0, "memory": 5e9}], {}, 2_000_000_000),
        ([{"CPU": 8.0, "memory": 10e9}], {"kv_cache_bytes": 1 << 20}, 1 << 20),
        (cpus(8), {}, None),
        ([{**GPU_NODE, "memory": 10e9}], {}, None),
    ],
)
def test_replicas_of_a_node_share_its_memory(
    nodes: list[dict[str, float]], resources: dict[str, Any], expected: int | None
) -> None:
    assert place(Resources(**resources), nodes).kv_cache_bytes == expected


@pytest.mark.parametrize(
    ("nodes", "resources", "message"),
    [
        (cpus(1), {"replicas": 3}, "3 replicas do not fit on a node of 1 CPUs"),
        ([{"CPU": 0.0}], {}, "no node of the cluster has CPUs"),
        (cpus(4), {"device": "cuda"}, "no node of the cluster has 1 GPUs"),
        ([GPU_NODE], {"tensor_parallel": 8}, "has 8 GPUs (the most is 4)"),
    ],
)
def test_what_fits_nowhere_is_refused(
    nodes: list[dict[str, float]], resources: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError) as error:
        place(Resources(**resources), nodes)
    assert message in str(error.value)


@given(st.integers(1, 64), st.integers(1, 16))
def test_tasks_always_find_room_beside_the_replicas(count: int, replicas: int) -> None:
    try:
        made = place(Resources(replicas=replicas), cpus(count))
    except JobError:
        assert replicas > count
        return
    assert made.num_cpus * replicas + NODE_RESERVE <= count + 1e-9
    assert made.num_cpus != TASK_CPUS, "Ray Data would fuse the stages"
    assert made.threads is not None
    assert made.threads * replicas <= max(count, replicas)


@pytest.mark.parametrize(
    ("unit_rows", "units", "replicas", "expected"),
    [
        (2048, 1000, 4, (3, 6)),
        (128, 1000, 4, (4, 8)),
        (32, 20, 2, (10, 10)),  # half the units each, though one is up before the other
        (1, 10_000, 1, (64, 128)),
        (32, 1, 4, (1, 1)),
    ],
)
def test_units_in_flight(
    unit_rows: int, units: int, replicas: int, expected: tuple[int, int]
) -> None:
    made = flow(Resources(), unit_rows, units, replicas)
    assert (made.concurrent, made.in_flight) == expected
