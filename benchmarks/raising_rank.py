"""A rank's main program that raises where it stands when it gets SIGUSR1; see rank_faults.py."""

import signal
from typing import Any

FAULT = "a fault on purpose"


def _leave(*_: Any) -> None:
    raise SystemExit(FAULT)


def _raise(*_: Any) -> None:
    raise RuntimeError(FAULT)


if __name__ == "__main__":
    # Before torch is imported: a signal that nobody handles would kill. And no common exception:
    # whoever tries an import would take it for a module that is missing.
    signal.signal(signal.SIGUSR1, _leave)
    from model.engine import rank_process

    signal.signal(signal.SIGUSR1, _raise)
    rank_process.main()
