"""A rank in a process of its own, as its parent sees it."""

import contextlib
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import psutil

from model.errors import EngineDeadError

from .runner import RankSetup

PROGRAM = "model.engine.rank_process"
END_TIMEOUT_S = 5.0


class RankDiedError(EngineDeadError):
    """A rank's process ended without a word."""


class Child:
    """A rank's process and our end of the pipe to it.

    A plain subprocess rather than multiprocessing's spawn: that would import the user's main
    module once more.

    Attributes:
        rank: of the process.
        pipe: what it says comes out here; for the one thread that listens.
    """

    def __init__(self, setup: RankSetup, rank: int, size: int, meeting: Path) -> None:
        self.rank = rank
        self.pipe, theirs = Pipe()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", PROGRAM, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_import_root(), *sys.path])},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.pipe.send((setup, rank, size, meeting))

    def send(self, command: bytes) -> None:
        """Send a pickled command; it is answered by taking part in the collectives.

        Raises:
            OSError: the process is gone, or was given up while this waited for it to read.
        """
        self.pipe.send_bytes(command)

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped it."""
        try:
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> None:
        """End it now, also if it is stopped or hangs."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Close its pipe, which ends it; kill it if that doesn't."""
        self.pipe.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def epitaph(self) -> RankDiedError:
        """Say how it died, once its pipe is closed from the other side."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        return RankDiedError(f"rank {self.rank} died (exit status {self._process.returncode})")


def _import_root() -> str:
    return str(Path(__file__).resolve().parents[2])
