from typing import Any

import pytest
from ray.data._internal.util import iterate_with_retry
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError

from model.errors import PromptError
from pipelines import StorageError
from pipelines.ray_errors import explained


def failed(cause: Exception) -> RayError:
    """What Ray raises at the driver for a task that raised `cause`."""
    kind: Any = RayTaskError
    error: RayError = kind("task", f"Traceback:\n  lines\n{cause}", cause)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (failed(PromptError("too long")), "too long"),
        (failed(ValueError("a\nb")), "a task failed: ValueError: b"),
        (ActorDiedError(), "replicas die while they start: "),
        (ObjectLostError("ab", None, "stack"), "Ray failed: ObjectLostError"),
        (failed(ImportError("No module named 'model.errors'")), "named 'model' than gemmaray's"),
    ],
)
def test_failures_are_one_line(error: RayError, message: str) -> None:
    text = str(explained(error))
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (StorageError("out: can't write rows"), "out: can't write rows"),
        (ValueError("a\nb"), "a task failed: ValueError: b"),
    ],
)
def test_rays_advice_is_left_out(cause: Exception, message: str) -> None:
    def stage() -> Any:
        raise cause
        yield

    with pytest.raises(type(cause), match="attempts") as raised:
        list(iterate_with_retry(stage, "apply UDF transform", max_attempts=1))
    assert str(explained(failed(raised.value))) == message
