"""The deployments behind the front door: engines for each model, and who runs batches."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve

from .batches.deployment import BatchWorker
from .served import ServedEndpoint
from .settings import ModelArgs, ServeArgs

FRONT_DOOR = "front-door"
BATCH_WORKER = "batches"
HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 15.0
# A replica that can't be built is the fault of its settings more often than not.
BUILD_TRIES = 3
# What a replica that is to end waits longer than its last request may take.
DRAIN_MARGIN_S = 5.0
DRAIN_LOOP_S = 0.5


def drain_s(args: ServeArgs) -> float:
    """Give the seconds that what is to end waits for its last requests."""
    return args.limits.timeout_s + DRAIN_MARGIN_S


def model_applications(args: ServeArgs) -> dict[str, serve.Application]:
    """Give the models' deployments, by what requests call the models.

    Raises:
        GemmarayError: a setting can't be used.
    """
    models: dict[str, serve.Application] = {}
    names: set[str] = {FRONT_DOOR, BATCH_WORKER}
    for model in args.models:
        name = _deployment_name(model.served_name, names)
        names.add(name)
        deployment = serve.deployment(**_options(model, name, drain_s(args)))(ServedEndpoint)
        models[model.served_name] = deployment.bind(
            model.served_name, model.engine_config(), model.system, model.hang_s
        )
    return models


def batch_application(
    args: ServeArgs, models: Mapping[str, Any], directory: str
) -> serve.Application:
    """Give the part that runs batches; what it leaves undone, another one finds.

    Args:
        args: of the application.
        models: the models' deployments, or handles to them.
        directory: where files and batches are.
    """
    deployment = serve.deployment(
        name=BATCH_WORKER,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=DRAIN_MARGIN_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOP_S,
        max_constructor_retry_count=BUILD_TRIES,
    )(BatchWorker)
    lines = {model.served_name: model.batch_lines for model in args.models}
    return deployment.bind(
        models, lines, directory, args.limits, args.batches_at_once, args.parents
    )


def _options(model: ModelArgs, name: str, patience_s: float) -> dict[str, Any]:
    """Give the options of a model's deployment."""
    least, most = model.replica_range
    options: dict[str, Any] = {
        "name": name,
        "ray_actor_options": _resources(model),
        "max_ongoing_requests": model.max_ongoing,
        "max_queued_requests": model.max_queued,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": patience_s,
        "graceful_shutdown_wait_loop_s": DRAIN_LOOP_S,
        "max_constructor_retry_count": BUILD_TRIES,
    }
    if least == most:
        return {**options, "num_replicas": least}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": model.target,
    }
    return {**options, "autoscaling_config": scaling}


def _resources(model: ModelArgs) -> dict[str, float]:
    """Say what a replica takes; its other ranks are child processes of it."""
    if model.device == "cpu" or (model.device == "auto" and not _has_gpu()):
        return {"num_cpus": model.cpus}
    return {"num_cpus": model.cpus, "num_gpus": model.tensor_parallel}


def _has_gpu() -> bool:
    """Whether there is a GPU where the application is to run, as far as one can tell from here."""
    if ray.is_initialized():
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return resources.get("GPU", 0) > 0
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _deployment_name(model: str, taken: set[str]) -> str:
    """Name a deployment after its model, in letters that Serve takes."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", model).strip("-") or "model"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name
