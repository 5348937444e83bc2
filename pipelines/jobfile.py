"""The job as it was run, kept beside its plan for those who look at the output later."""

import json
from importlib.metadata import version
from typing import Any

from model.errors import ParameterError

from .errors import JobError
from .job import JobSpec
from .locations import STORE_ERRORS
from .storage import Store

JOB_NAME = "_job/job.json"


def save_job(store: Store, spec: JobSpec) -> None:
    """Write the job down, unless one is there already."""
    values = {**spec.model_dump(mode="json"), "gemmaray": version("gemmaray")}
    store.put_if_absent(JOB_NAME, json.dumps(values, indent=1, ensure_ascii=False).encode())


def load_job(store: Store) -> JobSpec:
    """Read what save_job wrote.

    Raises:
        JobError: there is no job, or it is damaged.
    """
    name = f"{store.url}/{JOB_NAME}"
    try:
        values = json.loads(store.read(JOB_NAME))
        values.pop("gemmaray", None)
        return JobSpec(**_with_token_ids(values))
    except FileNotFoundError:
        raise JobError(f"there is no {name}: an older version wrote this output") from None
    except (ValueError, TypeError, AttributeError, ParameterError) as error:
        raise JobError(f"{name} can't be used: {' '.join(str(error).split())}") from None
    except STORE_ERRORS as error:
        raise JobError(f"{name} can't be read: {error}") from error


def _with_token_ids(values: dict[str, Any]) -> dict[str, Any]:
    """Turn the keys of logit_bias, which JSON makes text, into token ids again."""
    generate = (values.get("tasks") or {}).get("generate")
    if generate and generate.get("logit_bias"):
        generate["logit_bias"] = {int(key): v for key, v in generate["logit_bias"].items()}
    return values
