"""Memory, limits, disks and ports, as numbers."""

import resource
import socket
from pathlib import Path

import pytest

from cluster.doctor.machine import (
    check_disk,
    check_memory,
    check_open_files,
    check_port,
    check_shared_memory,
    memory_limit,
    why_taken,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("available", "limit", "state"),
    [(8, None, "ok"), (8, 4, "ok"), (1, None, "warning"), (8, 1, "warning"), (8, 2**33, "ok")],
)
def test_memory(available: int, limit: int | None, state: str) -> None:
    found = check_memory(available * GIB, 16 * GIB, None if limit is None else limit * GIB)
    assert found.state == state
    assert ("container" in found.text) == (limit is not None and limit < 16)


@pytest.mark.parametrize(
    ("texts", "limit"),
    [(["max\n"], None), (["1024\n"], 1024), ([None, "2048\n"], 2048), ([], None)],
)
def test_limits_of_control_groups(
    tmp_path: Path, texts: list[str | None], limit: int | None
) -> None:
    places = []
    for number, text in enumerate(texts):
        places.append(tmp_path / str(number))
        if text is not None:
            places[-1].write_text(text)
    assert memory_limit(tuple(places)) == limit


@pytest.mark.parametrize(("free", "state"), [(None, "warning"), (64, "warning"), (4096, "ok")])
def test_shared_memory(free: int | None, state: str) -> None:
    assert check_shared_memory(None if free is None else free << 20, 1 << 30).state == state


@pytest.mark.parametrize(
    ("soft", "hard", "state"),
    [
        (1024, 1024, "warning"),
        (1024, 4096, "warning"),
        (1024, 1 << 20, "ok"),
        (1024, resource.RLIM_INFINITY, "ok"),
        (65536, 65536, "ok"),
    ],
)
def test_open_files(soft: int, hard: int, state: str) -> None:
    assert check_open_files(soft, hard).state == state


@pytest.mark.parametrize(
    ("free", "state"), [(50, "ok"), (8, "warning"), (4, "problem"), (0, "problem")]
)
def test_disk(free: int, state: str) -> None:
    assert check_disk("/tmp", free * GIB, 100 * GIB).state == state


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = check_port(port, why_taken(port))
        assert (found.state, found.check) == ("warning", f"port {port}")
    assert check_port(port, why_taken(port)).state == "ok"
