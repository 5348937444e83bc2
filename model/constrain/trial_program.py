"""Compile one grammar and find its first tokens: `python trial_program.py`, run by `trial`.

Standard input has the grammar, the limits and what may be used up, as JSON; standard output gets
the compiler's complaint, empty if it has none. The process may well die of it: a chain of
references overflows the stack, a product of expressions takes all of the time or of the memory.
"""

import json
import resource
import sys
import threading

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# Threads of an engine have 2 MiB at least: what passes here does not overflow theirs.
STACK_BYTES = 1 << 20


def main() -> None:
    """Read the task, do it in a thread with a small stack, and write what was said."""
    task = json.load(sys.stdin)
    cpu_s, memory = task["cpu_s"], task["memory"]
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    complaints: list[str] = []
    thread = threading.Thread(target=lambda: complaints.append(_complaint(task)))
    thread.start()
    thread.join()
    json.dump(complaints[0], sys.stdout)


def _complaint(task: dict[str, object]) -> str:
    limits = LLParserLimits(**task["limits"])  # type: ignore[arg-type]
    matcher = LLMatcher(LLTokenizer("byte"), str(task["grammar"]), log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error()


if __name__ == "__main__":
    main()
