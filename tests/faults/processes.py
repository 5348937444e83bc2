"""Children that are forked warm, struck by signals, and asked what became of them.

A process that imports pyarrow takes half a second to start, one that is forked from such a process
a few milliseconds. Forking is only safe while there is one thread, so this is used by scripts and
not inside pytest.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Outcome = Literal["done", "failed", "killed", "stopped"]


@contextmanager
def child_signals() -> Iterator[None]:
    """Hold SIGCHLD back, so that `nap` can wait for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork(work: Callable[[], None]) -> int:
    """Do some work in a child, and give its process id. What it raises, it prints."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # nothing of the parent is to be undone here
    raise AssertionError("unreachable")


def outcome(pid: int) -> Outcome | None:
    """Tell what became of a child; None while it runs. Each outcome is given once."""
    found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if not found:
        return None
    if os.WIFSTOPPED(status):
        return "stopped"
    if os.WIFSIGNALED(status):
        return "killed"
    return "done" if os.WEXITSTATUS(status) == 0 else "failed"


def nap(seconds: float) -> None:
    """Wait until a child ends or stops, but no longer than this."""
    signal.sigtimedwait({signal.SIGCHLD}, max(seconds, 0.0))


def end(pid: int) -> None:
    """Kill a child that may have been reaped already."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
