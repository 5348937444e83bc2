"""Dashboards: a real server that answers as they do, with and without a token."""

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cluster.doctor import ray_cluster
from cluster.doctor.ray_cluster import (
    Dashboard,
    check_access,
    check_versions,
    examine,
    is_private,
    look_at,
)

OPEN = Dashboard(
    "http://head:8265", private=False, without_token=200, ray="2.60.0", python="3.11.9"
)


class Answer(BaseHTTPRequestHandler):
    """Answer as a dashboard that takes one token."""

    token = ""
    reply = json.dumps({"data": {"rayVersion": "2.60.0", "pythonVersion": "3.11.9"}})

    def do_GET(self) -> None:
        given = self.headers.get("authorization", "")
        status = 200 if not self.token or given == f"Bearer {self.token}" else 403 if given else 401
        self.send_response(status)
        self.end_headers()
        self.wfile.write(self.reply.encode() if status == 200 else b"Unauthorized")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A dashboard on loopback that takes the token `secret`."""
    monkeypatch.setattr(Answer, "token", "secret")
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_token_that_fits(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_token", lambda: {"authorization": "Bearer secret"})
    seen = look_at(dashboard)
    assert seen == Dashboard(dashboard, True, 401, 200, "2.60.0", "3.11.9")
    assert next(examine(dashboard, "2.60.0")).state == "ok"


@pytest.mark.parametrize(
    ("token", "text"),
    [({}, "wants a token"), ({"authorization": "Bearer other"}, "refuses our token")],
)
def test_a_token_that_does_not(
    dashboard: str, monkeypatch: pytest.MonkeyPatch, token: dict[str, str], text: str
) -> None:
    monkeypatch.setattr(ray_cluster, "_token", lambda: token)
    (found,) = examine(dashboard, "2.60.0")
    assert found.state == "problem"
    assert text in found.text


def test_a_dashboard_on_this_machine_without_a_token_is_a_warning(
    dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answer, "token", "")
    monkeypatch.setattr(ray_cluster, "_token", dict)
    assert next(examine(dashboard, "2.60.0")).state == "warning"


def test_a_dashboard_that_is_open_to_the_network_is_a_problem() -> None:
    found = check_access(OPEN)
    assert found.state == "problem"
    assert "ShadowRay" in found.text
    assert "RAY_AUTH_MODE=token" in found.fix


@pytest.mark.parametrize("reply", ["[]", "not JSON", '{"data": {}}'])
def test_another_server_is_a_problem(
    dashboard: str, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    monkeypatch.setattr(Answer, "token", "")
    monkeypatch.setattr(Answer, "reply", reply)
    monkeypatch.setattr(ray_cluster, "_token", dict)
    (found,) = examine(dashboard, "2.60.0")
    assert (found.state, found.fix) == ("problem", "give the dashboard's URL, http://HOST:8265")


def test_a_page_that_is_not_there_is_a_problem() -> None:
    assert check_access(dataclasses.replace(OPEN, without_token=404)).state == "problem"


def test_nobody_there_is_a_problem() -> None:
    (found,) = examine("http://127.0.0.1:9", "2.60.0")
    assert found.state == "problem"


def test_no_cluster_is_no_problem() -> None:
    (found,) = examine(None, "2.60.0")
    assert found.state == "ok"


@pytest.mark.parametrize(
    ("ray", "python", "states"),
    [
        ("2.60.0", "3.11.1", ["ok"]),
        ("2.61.0", "3.11.1", ["problem"]),
        ("2.60.0", "3.12.0", ["ok", "warning"]),
    ],
)
def test_versions_have_to_agree(ray: str, python: str, states: list[str]) -> None:
    assert [finding.state for finding in check_versions(OPEN, ray, python)] == states


@pytest.mark.parametrize(
    ("url", "listening", "private"),
    [
        ("http://127.0.0.1:8265", [("127.0.0.1", 8265), ("0.0.0.0", 22)], True),
        ("http://localhost:8265", [("::1", 8265)], True),
        ("http://127.0.0.1:8265", [("0.0.0.0", 8265)], False),
        ("http://127.0.0.1:8265", [("::", 8265)], False),
        ("http://10.0.0.1:8265", [], False),
        ("http://head:8265", [], False),
    ],
)
def test_who_reaches_a_dashboard(url: str, listening: list[tuple[str, int]], private: bool) -> None:
    assert is_private(url, listening) == private
