"""Wait for receipts and see what goes on meanwhile, in one thread that can be interrupted."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from actors.progress import Snapshot

from .commit import Receipt
from .errors import JobError
from .plan import Unit
from .stopping import StopSignal

# Longer than Ray Data takes to end its stages, where Ray still answers.
STOP_S = 15.0

Result = Receipt | Unit


class ReceiptThread:
    """Iterates over receipts, and units that were given up, for a caller who does not only wait.

    Args:
        receipts: gives them, until it is told to stop.
    """

    def __init__(self, receipts: Callable[[StopSignal], Iterator[Result]]) -> None:
        self._receipts = receipts
        self._queue: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
        self._stopped = StopSignal()
        self.finished = False
        self._thread = threading.Thread(target=self._main, name="receipts", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> list[Result]:
        """Wait for results, and give those that are there.

        Raises:
            RayError: what the iteration ended with, if it did not end well.
        """
        taken: list[Result] = []
        with suppress(queue.Empty):
            item = self._queue.get(timeout=timeout_s)
            while True:
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    self.finished = True
                    break
                taken.append(item)
                item = self._queue.get_nowait()
        return taken

    def stop(self) -> None:
        """End the iteration and the stages behind it; return when they have, or take too long."""
        self._stopped.set()
        self._thread.join(STOP_S)

    def _main(self) -> None:
        end: BaseException | None = None
        try:
            for receipt in self._receipts(self._stopped):
                self._queue.put(receipt)
                if self._stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - raised again by take
            end = error
        self._queue.put(end)


def check_snapshot(snapshot: Snapshot) -> None:
    """Stop a job that can't get on.

    Raises:
        JobError: the replicas can't work.
    """
    if snapshot.fatal:
        raise JobError(snapshot.fatal)
