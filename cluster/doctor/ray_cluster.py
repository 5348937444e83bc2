"""A Ray cluster: whether it answers, is of our version, and is open to those it should not be."""

import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import psutil

from cluster.hosts import is_loopback
from cluster.submission.dashboard import find_dashboard, settle_environment
from model.errors import GemmarayError

from .finding import Finding, ok, problem, warning

REFUSED = (401, 403)
TIMEOUT_S = 10.0
SHADOW_RAY = "start it with RAY_AUTH_MODE=token and a token, and --dashboard-host 127.0.0.1"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What the dashboard of a cluster answers.

    Attributes:
        url: where it is.
        private: whether only this machine reaches it, as far as can be seen from here.
        without_token: the status of an answer to somebody without a token.
        with_token: to us, with the token that the environment names; None if it names none.
        ray: the version there; "" if we are not told.
        python: the same.
    """

    url: str
    private: bool
    without_token: int
    with_token: int | None = None
    ray: str = ""
    python: str = ""


def examine(address: str | None, ray: str) -> Iterator[Finding]:
    """Check a cluster, if one is named; `ray` is our version."""
    if not address:
        yield ok("ray", f"{ray}; no cluster was named, so jobs start a Ray of their own")
        return
    try:
        seen = look_at(find_dashboard(address))
    except GemmarayError as error:
        yield problem("ray", str(error), "look at `ray status` on its head node, and at firewalls")
        return
    except (OSError, HTTPException, ValueError) as error:
        reason = f"{address} does not answer as a Ray dashboard does: {error}"
        yield problem("ray", reason, "give the dashboard's URL, http://HOST:8265")
        return
    yield check_access(seen)
    yield from check_versions(seen, ray, platform.python_version())


def look_at(url: str) -> Dashboard:
    """Ask a dashboard for what needs no permission, and what does.

    Raises:
        OSError, HTTPException, ValueError: it is none, or does not answer.
    """
    token = _token()
    open_to_all, body = _get(url, "/api/v0/cluster_metadata", {})
    status = None
    if token:
        status, body = _get(url, "/api/v0/cluster_metadata", token)
    versions = _versions(body) if 200 in {open_to_all, status} else {}
    return Dashboard(
        url=url,
        private=is_private(url, _listening()),
        without_token=open_to_all,
        with_token=status,
        ray=str(versions.get("rayVersion", "")),
        python=str(versions.get("pythonVersion", "")),
    )


def is_private(url: str, listening: Iterable[tuple[str, int]]) -> bool:
    """Whether a dashboard is reached from this machine alone.

    Args:
        url: the dashboard's.
        listening: addresses and ports of this machine that something listens on.
    """
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return False
    return all(is_loopback(host) for host, port in listening if port == parts.port)


def check_access(seen: Dashboard) -> Finding:
    """Tell who may submit jobs, which is to run any code on the cluster."""
    if seen.without_token in REFUSED:
        if seen.with_token == 200:
            return ok("access", f"{seen.url} wants a token, and takes ours")
        if seen.with_token in REFUSED:
            return problem(
                "access", f"{seen.url} refuses our token", "set RAY_AUTH_TOKEN to the cluster's"
            )
        return problem(
            "access", f"{seen.url} wants a token", "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        )
    if seen.without_token != 200:
        text = f"{seen.url} answers with HTTP status {seen.without_token}"
        return problem("access", text, "give the dashboard's URL, http://HOST:8265")
    if seen.private:
        text = f"{seen.url} asks for no token: whoever is on this machine runs code on the cluster"
        return warning("access", text, SHADOW_RAY)
    text = f"{seen.url} asks for no token: whoever reaches it runs code on the cluster (ShadowRay)"
    return problem("access", text, SHADOW_RAY)


def check_versions(seen: Dashboard, ray: str, python: str) -> Iterator[Finding]:
    """Hold the cluster's Ray and Python against ours."""
    if not seen.ray:
        return
    fix = "install the same on both; gemmaray submit needs no more than Ray's Jobs API to agree"
    if seen.ray != ray:
        yield problem("ray", f"the cluster has {seen.ray}, this machine {ray}", fix)
    else:
        yield ok("ray", f"{ray}, on the cluster as well")
    if seen.python.split(".")[:2] != python.split(".")[:2]:
        text = f"the cluster has Python {seen.python}, this machine {python}"
        yield warning("ray's python", text, fix)


def _versions(body: bytes) -> dict[str, str]:
    try:
        data = json.loads(body)["data"]
        return {"rayVersion": data["rayVersion"], "pythonVersion": data["pythonVersion"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError("its reply names no versions") from None


def _listening() -> list[tuple[str, int]]:
    sockets = psutil.net_connections("tcp")
    listeners = [s.laddr for s in sockets if s.status == psutil.CONN_LISTEN]
    return [(address.ip, address.port) for address in listeners]  # type: ignore[union-attr]


def _token() -> dict[str, str]:
    """Give the header that Ray's own client would send; none if the environment names no token."""
    settle_environment()
    from ray._private.authentication import http_token_authentication  # noqa: PLC0415
    from ray.exceptions import RayError  # noqa: PLC0415

    try:
        return dict(http_token_authentication.get_auth_headers_if_auth_enabled({}))
    except RayError:
        return {}


def _get(url: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
