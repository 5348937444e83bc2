"""Bodies that are too large are refused before they are read, or as soon as it shows."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import local_path
from .errors import ApiError

# No body has more digits than that.
LONGEST_LENGTH = 20


class BodyLimit:
    """ASGI middleware: answers 413.

    Args:
        app: what it stands before.
        most: bytes of a body.
        at: path to the same, where that is another.
    """

    def __init__(self, app: ASGIApp, most: int, at: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._most = most
        self._at = at or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._at.get(local_path(scope), self._most)
        reason = f"the body is larger than {most} bytes"
        if self._declared(scope) > most:
            refusal = ApiError(413, reason, code="body_too_large")
            await refusal.response()(scope, receive, send)
            return
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                # Of what may be raised while a body is read, FastAPI lets only this one through.
                raise HTTPException(413, reason)
            return message

        await self._app(scope, counted, send)

    def _declared(self, scope: Scope) -> int:
        length = next((v for name, v in scope["headers"] if name == b"content-length"), b"")
        return int(length[:LONGEST_LENGTH]) if length.isdigit() else 0
