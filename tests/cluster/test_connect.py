"""How Ray is started or joined, without starting it; tests marked `ray` do."""

import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import ray.data

from cluster import connect as connecting
from cluster.connect import ConnectError, connect, connected, object_store_bytes

MIB = 1 << 20
RAY_DATA_LOG = logging.getLogger(ray.data.__name__)
SETTINGS = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_BACKEND_LOG_LEVEL",
    "RAY_DISABLE_DOCKER_CPU_WARNING",
    "RAY_ENABLE_AUTO_CONNECT",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV",
    "RAY_USAGE_STATS_ENABLED",
)


@pytest.fixture(autouse=True)
def process_is_put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    levels = {handler: handler.level for handler in RAY_DATA_LOG.handlers}
    yield
    for handler, level in levels.items():
        handler.setLevel(level)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ray.init was called with."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **settings: calls.append(settings))
    return calls


@pytest.mark.parametrize("address", [None, "", "local"])
def test_a_ray_of_our_own_shows_nothing_and_asks_for_a_token(
    started: list[dict[str, Any]], address: str | None
) -> None:
    connect(address)
    assert started[0]["address"] == "local"
    assert started[0]["include_dashboard"] is False
    assert started[0]["log_to_driver"] is False
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_ray_data_keeps_off_the_terminal_but_not_out_of_its_file(
    started: list[dict[str, Any]],
) -> None:
    connect()
    muted = [handler.level > logging.CRITICAL for handler in RAY_DATA_LOG.handlers]
    on_terminal = [isinstance(handler, logging.StreamHandler) for handler in RAY_DATA_LOG.handlers]
    assert muted == on_terminal
    assert set(on_terminal) == {False, True}


def test_what_the_user_set_stays(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    connect()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of something that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_that_is_joined_gets_our_packages(
    started: list[dict[str, Any]], listening: str
) -> None:
    connect(listening)
    assert started[0]["address"] == listening
    names = [path.rpartition("/")[2] for path in started[0]["runtime_env"]["py_modules"]]
    assert names == ["cluster", "pipelines", "actors", "model"]
    assert "object_store_memory" not in started[0]
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_submitted_command_leaves_packages_to_its_submission(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    connect("auto")
    assert "runtime_env" not in started[0]


def test_auto_leaves_the_search_to_ray(started: list[dict[str, Any]]) -> None:
    connect("auto")
    assert started[0]["address"] == "auto"


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.1:", ":6379", "head:x", "head:99999999"])
def test_what_is_no_address_is_refused(started: list[dict[str, Any]], address: str) -> None:
    with pytest.raises(ConnectError, match=address):
        connect(address)
    assert not started


def test_an_address_where_nobody_listens_is_refused_at_once(
    started: list[dict[str, Any]],
) -> None:
    with pytest.raises(ConnectError, match=r"at 127\.0\.0\.1:1: .*refused"):
        connect("127.0.0.1:1")
    assert not started


def test_ray_client_is_refused(started: list[dict[str, Any]]) -> None:
    with pytest.raises(ConnectError, match="ray://head:10001 is Ray Client's port"):
        connect("ray://head:10001")
    assert not started


def test_what_ray_says_becomes_one_line(
    monkeypatch: pytest.MonkeyPatch, listening: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: Any) -> None:
        os.write(2, b"what C++ prints")
        raise ConnectionError("no such cluster\nand a long story")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConnectError) as caught:
        connect(listening)
    assert str(caught.value) == f"can't join the Ray cluster at {listening}: no such cluster"
    os.write(2, b"and what comes later")
    assert capfd.readouterr().err == "and what comes later"


def test_it_disconnects_whatever_happens(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    monkeypatch.setattr(connecting, "disconnect", lambda: ended.append(True))
    with pytest.raises(RuntimeError), connected():
        raise RuntimeError
    assert ended == [True]


@pytest.mark.parametrize(
    ("available", "size"),
    [(0, 256 * MIB), (8192 * MIB, 1024 * MIB), (1 << 40, 4096 * MIB)],
)
def test_the_object_store_takes_an_eighth_within_bounds(available: int, size: int) -> None:
    assert object_store_bytes(available) == size
