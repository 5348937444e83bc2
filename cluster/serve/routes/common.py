"""What the routes tell OpenAPI alike."""

from typing import Any

from cluster.serve.protocol.base import ErrorBody

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "What the client can mend, or try again later."},
    "5XX": {"model": ErrorBody, "description": "What it can't."},
}


def streams() -> dict[int | str, dict[str, Any]]:
    """Give the responses of a route that may also stream."""
    description = "The answer; with stream: true, events with chunks of it."
    content: dict[str, Any] = {"text/event-stream": {}}
    return {200: {"description": description, "content": content}, **ERRORS}
