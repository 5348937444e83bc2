"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

No message quotes what a request holds: neither a log nor another client gets to see it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from actors.calls import Failure

from .protocol.base import UNSUPPORTED, ErrorBody, ErrorDetail

logger = logging.getLogger(__name__)

# Whoever sees this as status is gone; nginx's number for it.
CLIENT_GONE = 499
RETRY_AFTER_S = 1
# For OpenAI's clients: a request that took too long would take as long again.
NO_RETRY = {"x-should-retry": "false"}

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """What a client is told instead of an answer.

    Attributes:
        status: of HTTP.
        detail: what is wrong, and with which field.
        headers: to go with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.detail = ErrorDetail(message=message, type=kind, param=param, code=code)

    @property
    def body(self) -> ErrorBody:
        """The error as it is sent."""
        return ErrorBody(error=self.detail)

    def response(self) -> JSONResponse:
        """Give it as a response."""
        return JSONResponse(self.body.model_dump(), self.status, self.headers)


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Say what the client can mend."""
    return ApiError(400, message, param=param, code=code)


def busy() -> ApiError:
    """Say that the queue is full."""
    return ApiError(
        429,
        "too many requests are waiting: try again later",
        code="queue_full",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


class EngineLostError(ApiError):
    """There is no engine at the moment.

    Attributes:
        held: whether it held this request when it died, which may be why.
    """

    def __init__(self, message: str, *, held: bool) -> None:
        headers = {"retry-after": str(RETRY_AFTER_S)}
        super().__init__(503, message, code="engine_unavailable", headers=headers)
        self.held = held


def as_error(failure: Failure) -> ApiError:
    """Say what a model could not do in HTTP's terms."""
    if failure.kind == "dead":
        message = "the engine of this model has died; another one is being started"
        return EngineLostError(message, held=True)
    return bad_request(failure.message, code=failure.code)


def too_late(seconds: float) -> ApiError:
    """Say that a deadline has passed."""
    message = f"the request took longer than {seconds:g} s and was given up"
    return ApiError(408, message, code="deadline_exceeded", headers=NO_RETRY)


def no_such_model(known: Iterable[str]) -> ApiError:
    """Say that a model is not served. What it was called may be anything, and is not quoted."""
    message = f"there is no such model here; there are: {', '.join(sorted(known))}"
    return ApiError(404, message, param="model", code="model_not_found")


def unexpected() -> ApiError:
    """Say that it is nobody's fault but ours."""
    return ApiError(500, "something went wrong on the server; it was logged")


def gone() -> ApiError:
    """End a request whose client has left."""
    return ApiError(CLIENT_GONE, "the client has left", code="client_gone")


def install(app: FastAPI) -> None:
    """Have all errors of an app answered in OpenAI's shape."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        found = ApiError(error.status_code, str(error.detail), headers=error.headers)
        return found.response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return from_findings(error.errors()).response()

    async def failed(_: Request, error: Exception) -> JSONResponse:
        logger.error("request failed: %s", type(error).__name__)
        return unexpected().response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)


def from_findings(findings: Sequence[Any]) -> ApiError:
    """Put pydantic's findings into one error: about the first field, and without the values."""
    first = findings[0]
    param = _field(first)
    if first["type"] == "json_invalid":
        return bad_request("the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return bad_request(
            f"{param} is no field of this request", param=param, code="unknown_field"
        )
    if first["type"] == UNSUPPORTED:
        name = ".".join(filter(None, (param, first["ctx"]["name"])))
        return bad_request(f"{name} is not supported here", param=name, code=UNSUPPORTED)
    same = [_wording(finding) for finding in findings if _top(finding) == _top(first)]
    # A field that takes several types has a finding for each.
    message = "; or ".join(dict.fromkeys(same[:4]))
    return bad_request(f"{param}: {message}" if param else message, param=param)


def _wording(finding: Mapping[str, Any]) -> str:
    return str(finding["msg"]).removeprefix("Value error, ")


def _top(finding: Mapping[str, Any]) -> Sequence[Any]:
    place: Sequence[Any] = finding["loc"][:2]
    return place


def _field(finding: Mapping[str, Any]) -> str | None:
    """Name the field, as far as it is one: pydantic adds the types that it tried."""
    parts = [part for part in finding["loc"][1:] if isinstance(part, int) or part.isidentifier()]
    names: list[str] = []
    for part in parts:
        if part in {"str", "list", "function"}:
            break
        names.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    return "".join(names).removeprefix(".")[:200] or None
