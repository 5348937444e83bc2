"""Where a job runs: on a Ray of its own on this machine, or on a cluster that is there already.

Ray reads its environment variables when it is imported. They are settled here first, so nothing
that is imported before `connect` is called may import Ray.
"""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from model.errors import GemmarayError

from .environment import PACKAGES, package_folder

MIB = 1 << 20
LEAST_OBJECT_STORE = 256 * MIB
MOST_OBJECT_STORE = 4096 * MIB
REACH_TIMEOUT_S = 5.0
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for what its Jobs API starts


class ConnectError(GemmarayError):
    """Ray can't be started here, or the cluster can't be joined."""


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be connected to Ray inside the block; see `connect`."""
    connect(address)
    try:
        yield
    finally:
        disconnect()


def connect(address: str | None = None) -> None:
    """Start a Ray for this process alone, or join the cluster at `address` (host:port, "auto").

    A Ray started here has no dashboard and asks for a random token at every port, since its ports
    are open to the network and whoever reaches them runs code. A cluster that is there already
    gets our packages from this machine, so that its workers run what this command is, unless this
    command was submitted to it. A variable that the user has set stays as it is.

    Raises:
        ConnectError: Ray can't be started, or there is no such cluster.
    """
    local = address in (None, "", "local")
    for name, value in ray_environment(local=local).items():
        os.environ.setdefault(name, value)
    import ray  # noqa: PLC0415 - see above

    settings = _own_ray() if local else _cluster(str(address))
    try:
        with _silent_stderr():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        where = "start Ray on this machine" if local else f"join the Ray cluster at {address}"
        raise ConnectError(f"can't {where}: {reason}") from error
    _mute_ray_data()


def disconnect() -> None:
    """Leave the cluster; a Ray that `connect` started ends."""
    import ray  # noqa: PLC0415 - see above

    ray.shutdown()


def ray_environment(*, local: bool) -> dict[str, str]:
    """Give the variables that Ray is to find when it is imported, where the user set none."""
    settings = {
        # Under `uv run` Ray would otherwise run each worker through uv again, in a new environment.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        # A thread of Ray Data that outlives an interrupted job would start a second Ray.
        "RAY_ENABLE_AUTO_CONNECT": "0",
        # Ray Data keeps a share of the cluster for a driver that was killed this long, and after a
        # few kills nothing is left for the next one. Those alive renew theirs every ten seconds.
        "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "40",
        # Ray's C++ part writes to the terminal, past every logger, what is raised as well.
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # Threads of an engine that wait for each other must not spin on a core that Ray's tasks
        # want. On two busy cores this makes the demo model 4 times as fast; on idle ones it costs
        # up to 25 % with two threads and nothing with one. (benchmarks/LOG.md)
        "GOMP_SPINCOUNT": "1000",
    }
    if local and os.environ.get("RAY_AUTH_MODE", "token") == "token":
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return settings


def _own_ray() -> dict[str, Any]:
    store = object_store_bytes(psutil.virtual_memory().available)
    return {"address": "local", "include_dashboard": False, "object_store_memory": store}


def _cluster(address: str) -> dict[str, Any]:
    if address.startswith("ray://"):
        raise ConnectError(
            f"{address} is Ray Client's port, which can't stream: run the command on a machine of "
            "the cluster with --address auto, or give the cluster's own HOST:6379"
        )
    if address != "auto":
        check_reachable(address)
    if SUBMITTED in os.environ:
        return {"address": address}  # all its processes get what it was submitted with
    packages = [str(package_folder(name)) for name in PACKAGES]
    return {
        "address": address,
        "runtime_env": {"py_modules": packages, "excludes": ["__pycache__"]},
    }


def check_reachable(address: str) -> None:
    """Try the address once: Ray would try for many minutes.

    Raises:
        ConnectError: it is no HOST:PORT, or nobody listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConnectError(f"{address} is no address of a Ray cluster: give HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectError(f"can't join the Ray cluster at {address}: {error}") from None


def _mute_ray_data() -> None:
    """Leave the terminal to our own display, to the end: Ray Data's log file keeps everything."""
    import ray.data  # noqa: F401, PLC0415 - makes the handlers

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL + 1)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Let nothing through to descriptor 2, where C++ writes; Ray announces its log level there."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def object_store_bytes(available: int) -> int:
    """Size Ray's shared memory: a job streams small blocks, and the model wants the rest.

    Ray's own choice is 30 % of the machine. An eighth of what is free, within 256 MiB to 4 GiB,
    holds hundreds of blocks.
    """
    return min(max(available // 8, LEAST_OBJECT_STORE), MOST_OBJECT_STORE)
