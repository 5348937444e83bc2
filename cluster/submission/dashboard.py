"""The dashboard of a Ray cluster, where its Jobs API is: found, reached, and asked with a token.

Ray reads its environment variables when it is imported; they are settled here first.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster.connect import REACH_TIMEOUT_S, check_reachable, ray_environment
from model.errors import GemmarayError

from .errors import SubmissionError, TakenError, UnknownJobError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.authentication.http_token_authentication",
    "ray._private.runtime_env.packaging",
)


def find_dashboard(address: str | None) -> str:
    """Give the URL of the dashboard of a cluster that answers.

    Args:
        address: the URL itself, or what a job is run at: HOST:PORT of the cluster, or "auto" for
            the one on this machine.

    Raises:
        SubmissionError: nothing is given, or nobody listens there.
    """
    if not address:
        raise SubmissionError(
            f"which cluster? Give --address http://HOST:8265, or set {ADDRESS_VARIABLE}"
        )
    if address.startswith("ray://"):
        raise SubmissionError(
            f"{address} is Ray Client's port: give the dashboard's, http://HOST:8265"
        )
    url = address if "://" in address else _ask_cluster(address)
    host, port = _host_and_port(url)
    try:
        socket.create_connection((host, port), REACH_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        raise SubmissionError(f"no Ray cluster can be reached at {url}: {error}") from None
    return url.rstrip("/")


def open_client(url: str) -> "JobSubmissionClient":
    """Give a client of a dashboard's Jobs API; a token goes along as Ray's own tools send it.

    Raises:
        SubmissionError: it wants a token, or is no Ray of a version that we can talk to.
    """
    settle_environment()
    with translated(url), _alone(url):
        from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 - see above

        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        return JobSubmissionClient(url)


def settle_environment() -> None:
    """Give Ray the variables that it is to find, where the user set none."""
    settings = ray_environment(local=False)
    if any(os.environ.get(name) for name in TOKEN_VARIABLES):
        settings["RAY_AUTH_MODE"] = "token"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@contextmanager
def translated(url: str, job: str = "") -> Iterator[None]:
    """Turn what Ray's client raises inside the block into one line of ours.

    Raises:
        UnknownJobError: there is no job of that id.
        TakenError: there is one already.
        SubmissionError: anything else that a server or a network can do.
    """
    from ray.exceptions import RayError  # noqa: PLC0415 - see above

    try:
        yield
    except GemmarayError:
        raise
    except (RayError, RuntimeError, OSError, ValueError, KeyError) as error:
        raise _in_our_words(error, url, job) from None


def _in_our_words(error: Exception, url: str, job: str) -> SubmissionError:
    lines = str(error).splitlines() or [type(error).__name__]
    text = lines[0]
    # AuthenticationError says which of the two it is in its words alone.
    if "Authentication required" in text:
        return SubmissionError(
            f"{url} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to what the cluster was started with"
        )
    if "Authentication failed" in text:
        return SubmissionError(
            f"{url} refuses the token of this environment: set RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to what the cluster was started with"
        )
    if "already exists" in str(error):
        return TakenError(f"{url} has a job {job} already")
    if "status code 404" in text and job:
        return UnknownJobError(f"{url} knows no job {job}; gemmaray jobs lists them")
    # What a server answered with is in `response`; without one there was no answer.
    if isinstance(error, OSError) and getattr(error, "response", None) is None:
        return SubmissionError(f"no Ray cluster can be reached at {url}: {text}")
    return SubmissionError(f"{url} does not answer as a Ray dashboard does: {_reason(lines)}")


def _reason(lines: list[str]) -> str:
    """Take the last line of a traceback that a server sends, or all of a short message."""
    told = [line.strip() for line in lines if line.strip(" .")]
    return told[-1] if len(told) > 1 else (told or ["no reason given"])[0]


def _ask_cluster(address: str) -> str:
    """Have the cluster's own port name the dashboard."""
    if address != "auto":
        check_reachable(address)
    settle_environment()
    from ray.dashboard.utils import ray_address_to_api_server_url  # noqa: PLC0415

    with translated(address):
        return str(ray_address_to_api_server_url(address))


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in {"http", "https"}:
        raise SubmissionError(f"{url} is no URL of a dashboard: give http://HOST:8265")
    return host, port or (443 if parts.scheme == "https" else 80)


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Keep Ray's client to this URL: it would take that of the environment before ours."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before
