"""The machine: memory, limits, disks, a port."""

import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from cluster.connect import object_store_bytes

from .finding import Finding, gib, ok, problem, warning

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has it
# Of control groups, version 2 and 1. A limit of almost 2^63 stands for none.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
RAY_RAISES_FILES_TO = 65536
FEW_FILES = 8192  # below which Ray warns
LEAST_MEMORY = 2 << 30
RAY_STOPS_AT = 0.95  # of a disk; then no object is written there any more
NEARLY = 0.90


def examine(port: int) -> Iterator[Finding]:
    """Check this machine."""
    memory = psutil.virtual_memory()
    yield check_memory(memory.available, memory.total, memory_limit(MEMORY_LIMITS))
    shared = psutil.disk_usage(str(SHARED_MEMORY)).free if SHARED_MEMORY.is_dir() else None
    yield check_shared_memory(shared, object_store_bytes(memory.available))
    yield check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    temporary = tempfile.gettempdir()
    disk = psutil.disk_usage(temporary)
    yield check_disk(temporary, disk.free, disk.total)
    yield check_port(port, why_taken(port))


def memory_limit(places: tuple[Path, ...]) -> int | None:
    """Read how much memory this control group may have, in bytes; None if it has no limit."""
    for place in places:
        try:
            return int(place.read_text())
        except (OSError, ValueError):
            continue  # another version, or "max"
    return None


def why_taken(port: int) -> str | None:
    """Say why nothing can listen on a port of this machine, if so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def check_memory(available: int, total: int, limit: int | None) -> Finding:
    """Tell how much memory there is; bytes."""
    within = limit is not None and limit < total
    text = f"{gib(available)} of {gib(total)} free"
    if limit is not None and within:
        text += f"; this container may have {gib(limit)}"
    if min(available, limit if limit is not None else available) < LEAST_MEMORY:
        fix = "free some, or raise the container's limit: Ray and an engine take 2 GiB at least"
        return warning("memory", text, fix)
    return ok("memory", text)


def check_shared_memory(free: int | None, wanted: int) -> Finding:
    """Tell whether Ray's object store finds room in shared memory; bytes."""
    check, size = str(SHARED_MEMORY), "a quarter of the memory"
    if free is None:
        return warning(check, "is not there, so Ray uses a disk, slowly", f"mount it: {size}")
    text = f"{gib(free)} free; Ray's objects take {gib(wanted)} here"
    if free < wanted:
        return warning(check, text, f"docker run --shm-size, or mount it larger: {size}")
    return ok(check, text)


def check_open_files(soft: int, hard: int) -> Finding:
    """Tell whether processes may open as many files as a cluster's do."""
    hard = RAY_RAISES_FILES_TO if hard == resource.RLIM_INFINITY else hard
    reached = max(soft, min(hard, RAY_RAISES_FILES_TO))
    text = (
        f"{reached:,} (ulimit -n; Ray raises {soft:,} by itself)" if reached > soft else f"{soft:,}"
    )
    if 0 <= reached < FEW_FILES:
        return warning("open files", text, f"ulimit -n {RAY_RAISES_FILES_TO}")
    return ok("open files", text)


def check_disk(folder: str, free: int, total: int) -> Finding:
    """Tell whether Ray can write in the temporary folder; bytes."""
    used = 1 - free / total if total else 1.0
    text = f"{folder}: {gib(free)} free, {used:.0%} used"
    if used >= RAY_STOPS_AT:
        fix = f"free some: Ray stops at {RAY_STOPS_AT:.0%}; or have RAY_TMPDIR name another disk"
        return problem("disk", text, fix)
    if used >= NEARLY:
        return warning("disk", text, f"free some: Ray stops at {RAY_STOPS_AT:.0%}")
    return ok("disk", text)


def check_port(port: int, taken: str | None) -> Finding:
    """Tell whether `gemmaray serve` can listen."""
    if taken:
        return warning(f"port {port}", taken, "give gemmaray serve another --port")
    return ok(f"port {port}", "free for gemmaray serve")
