"""The main program of ranks 1 .. N-1: `python -m model.engine.rank_process FD`.

FD is one end of a pipe whose other end the engine holds. All that is unpickled from it comes from
our own parent.
"""

import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from model.errors import EngineDeadError, GemmarayError
from model.parallel import TensorParallel

from .executor import JOIN_TIMEOUT_S
from .runner import RankSetup, Runner


def main() -> None:
    """Build this rank, say so, and compute steps until the pipe closes."""
    # Ctrl-C goes to the whole process group; the parent decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    setup, rank, size, meeting = pipe.recv()
    commands: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, commands), daemon=True).start()
    try:
        runner = _build(setup, rank, size, meeting)
        pipe.send("ready")
        while True:
            command, argument = commands.get()
            if command == "allocate":
                runner.allocate(argument)
            else:
                runner.run(argument)
    except GemmarayError as error:
        pipe.send(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        pipe.send(EngineDeadError(f"rank {rank}: {type(error).__name__}: {error}"))


def _build(setup: RankSetup, rank: int, size: int, meeting: str) -> Runner:
    tp = TensorParallel.join(
        rank,
        size,
        init_method=meeting,
        device=setup.device(rank),
        timeout_s=JOIN_TIMEOUT_S,
    )
    return Runner(setup, tp)


def _listen(pipe: Connection, commands: queue.SimpleQueue[tuple[str, Any]]) -> None:
    """Queue commands, and end the process when the parent is gone, even amid a collective."""
    while True:
        try:
            commands.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)


if __name__ == "__main__":
    main()
