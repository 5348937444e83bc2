"""A constraint compiled in a process of its own before it is compiled in this one.

Its author need not mean well, and compiling can't be stopped from outside: a schema of a few lines
may take minutes or gigabytes, or overflow the stack, which ends the process. So that happens first
in a child with limits on time, memory and stack. What passes there takes as much again here.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from model.constraint import Constraint
from model.errors import ConstraintError

from .grammar import grammar_of, reason_of
from .limits import PARSER_LIMITS, TRIAL_CPU_S, TRIAL_MEMORY, TRIAL_WALL_S

PROGRAM = Path(__file__).with_name("trial_program.py")
# These can't get out of hand: their compilation is linear in their size.
HARMLESS = frozenset({"json_object", "choice"})


def check_constraint(constraint: Constraint) -> None:
    """Compile a constraint elsewhere, to see that it can be, within the limits.

    Raises:
        ConstraintError: it can't.
    """
    try_out(constraint, grammar_of(constraint))


def try_out(constraint: Constraint, grammar: str) -> None:
    """Compile a constraint's grammar elsewhere, unless that is needless.

    Raises:
        ConstraintError: it is not understood, nothing can meet it, or it takes too much.
    """
    if constraint.kind not in HARMLESS:
        complaint = _run(constraint, grammar)
        if complaint:
            raise ConstraintError(f"{constraint.kind}: {reason_of(complaint)}")


def _run(constraint: Constraint, grammar: str) -> str:
    """Return the compiler's complaint, empty if it has none."""
    task = {
        "grammar": grammar,
        "limits": PARSER_LIMITS,
        "cpu_s": TRIAL_CPU_S,
        "memory": TRIAL_MEMORY,
    }
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-P", str(PROGRAM)],
            input=json.dumps(task).encode(),
            capture_output=True,
            timeout=TRIAL_WALL_S,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConstraintError(
            f"{constraint.kind}: took more than {TRIAL_WALL_S:.0f} s to compile: simplify it"
        ) from None
    if done.returncode == 0:
        return str(json.loads(done.stdout))
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise ConstraintError(
            f"{constraint.kind}: takes more than {TRIAL_CPU_S} s to compile: simplify it"
        )
    if done.returncode > 0:  # an exception, MemoryError for one
        (*_, last) = ["without a word", *done.stderr.decode(errors="replace").split("\n")[:-1]]
        raise ConstraintError(f"{constraint.kind}: the compiler failed: {last}")
    raise ConstraintError(
        f"{constraint.kind}: takes more than {TRIAL_MEMORY >> 20} MiB or nests too deep when it is "
        "compiled: simplify it"
    )
