"""The main program of ranks 1 .. N-1: `python -m model.engine.rank_process FD PARENT`.

FD is one end of a pipe whose other end the engine holds, in the process PARENT. All that is
unpickled from it comes from our own parent.

What goes back are the words of `words`, and the error that ends the rank.
"""

import ctypes
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from model.errors import EngineDeadError, GemmarayError
from model.parallel import TensorParallel

from .executor import compute
from .runner import RankSetup, Runner
from .words import BEAT, BEAT_EVERY_S, JOINED, LOADED

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Build this rank, say so, and compute steps until the pipe closes."""
    _die_with_parent(int(sys.argv[2]))
    # Ctrl-C goes to the whole process group; the parent decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = _Line(Connection(int(sys.argv[1])))
    setup, rank, size, meeting = line.first
    try:
        _compute(line, setup, TensorParallel(rank, size), meeting)
    except GemmarayError as error:
        line.say(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        line.say(EngineDeadError(f"rank {rank}: {type(error).__name__}: {error}"))
    os._exit(1)  # a group whose other ranks are waiting can't be left in good order


class _Line:
    """The connection to the parent; it is watched and kept alive by threads of its own."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self.first: tuple[RankSetup, int, int, Path] = pipe.recv()
        self.commands: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        # Now that torch is imported, silence counts: a thread might come to say this too late.
        self.say(BEAT)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def say(self, word: str | GemmarayError) -> None:
        """Tell the parent."""
        with self._lock:
            self._pipe.send(word)

    def _listen(self) -> None:
        """Queue commands, and end the process when the parent is gone, even amid a collective."""
        while True:
            try:
                self.commands.put(self._pipe.recv())
            except (EOFError, OSError):
                os._exit(0)

    def _beat(self) -> None:
        while True:
            try:
                self.say(BEAT)
            except OSError:
                os._exit(0)
            time.sleep(BEAT_EVERY_S)


def _compute(line: _Line, setup: RankSetup, tp: TensorParallel, meeting: Path) -> None:
    runner = Runner(setup, tp)
    line.say(LOADED)
    while True:
        command, argument = line.commands.get()
        if command == "join":
            tp.join(meeting, setup.device(tp.rank))
            line.say(JOINED)
        elif command == "allocate":
            runner.allocate(argument)
        else:
            compute(runner, *argument)


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent's watchdog thread ends.

    The pipe says so too; but a process that is stopped, or whose pipe some fork of the parent
    still holds, would not hear it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main()
