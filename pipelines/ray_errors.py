"""Say in one line what failed in a stage of a job."""

import re

from ray.exceptions import ActorDiedError, RayError, RayTaskError

from model.errors import GemmarayError

from .errors import JobError

# What Ray Data puts behind the message of whatever a stage raises.
ADVICE = re.compile(r"\nFailed to .* after \d+/\d+ attempts.*", re.DOTALL)


def explained(error: RayError) -> GemmarayError:
    """Give the error that a user is told of."""
    shadowed = re.search(r"No module named '(model|actors|pipelines)\b", str(error))
    if shadowed:
        return JobError(
            f"Ray's workers find another package named {shadowed[1]!r} than gemmaray's: start "
            "from a folder that holds none, or have gemmaray installed on every node"
        )
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, GemmarayError):
            return JobError(_without_advice(cause))
        return JobError(f"a task failed: {type(cause).__name__}: {_last_line(cause)}")
    if isinstance(error, ActorDiedError):
        return JobError(f"replicas die while they start: {_last_line(error)}")
    return JobError(f"Ray failed: {type(error).__name__}: {_last_line(error)}")


def _last_line(error: BaseException) -> str:
    lines = [line for line in _without_advice(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _without_advice(error: BaseException) -> str:
    return ADVICE.sub("", str(error))
