"""An end to a Ray Data stream that nobody wants any more, from another thread than its reader's.

Whoever reads a stream waits inside of Ray, where no other thread reaches it, and Ray dies with the
process when it is shut down while a thread is in there.
"""

import threading
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback


class StreamStoppedError(Exception):
    """The stream was stopped; its reader gets this."""


class StopSignal:
    """A threading.Event, for contexts of Ray Data, which are copied here and sent to workers.

    Copies here are the same signal; one that has travelled is never set.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def __reduce__(self) -> tuple[type["StopSignal"], tuple[()]]:
        return StopSignal, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "StopSignal":
        return self

    def set(self) -> None:
        """Stop it."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether it was stopped."""
        return self._event.is_set()


class StopOnSignal(ExecutionCallback):
    """Ends an execution, which looks at its callbacks several times a second.

    It is one of DataContext.custom_execution_callback_classes, with its signal bound to it.
    """

    def __init__(self, signal: StopSignal) -> None:
        self._signal = signal

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002 - Ray's
        """Raise StreamStoppedError once the signal is set."""
        if self._signal.is_set():
            raise StreamStoppedError
