"""Requests that wait for their constraint to be compiled, while others are computed."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from .admission import Admission


@dataclass(frozen=True, slots=True)
class _Waiting:
    admission: Admission
    compiled: "Future[Any]"


class Compiling:
    """Holds requests back until what they need is compiled; then they go on in their order."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, admission: Admission, compiled: "Future[Any]") -> None:
        """Hold a request back."""
        self._waiting[admission.request_id] = _Waiting(admission, compiled)

    def drop(self, request_id: str) -> bool:
        """Forget a request; False if it does not wait here."""
        return self._waiting.pop(request_id, None) is not None

    def ready(self) -> Iterator[tuple[Admission, BaseException | None]]:
        """Let go of those that need not wait any more, each with its error if it has one."""
        if not self._waiting:
            return
        for request_id, waiting in list(self._waiting.items()):
            if waiting.compiled.done():
                del self._waiting[request_id]
                yield waiting.admission, waiting.compiled.exception()

    def wait(self, seconds: float) -> None:
        """Return when one of them may go on, or after some time."""
        futures = {waiting.compiled for waiting in self._waiting.values()}
        wait(futures, seconds, return_when=FIRST_COMPLETED)
