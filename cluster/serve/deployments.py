"""The application on Ray Serve: one front door, and a deployment of engines for each model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.ray_metrics import RayMetrics
from pipelines.locations import parse_location
from pipelines.storage import open_store

from .access import Keys
from .api import make_app
from .batches.deployment import BatchWorker
from .batches.desk import Desk
from .batches.front import Batches
from .batches.shelf import Shelf
from .metrics import FRONT_DOOR as FRONT_DOOR_METRICS
from .metrics import Metrics
from .remote import RemoteBackend
from .served import ServedEndpoint
from .settings import Limits, ModelArgs, ServeArgs

FRONT_DOOR = "front-door"
BATCH_WORKER = "batches"
# It awaits others all the time, and refuses by itself what is too much.
FRONT_DOOR_REQUESTS = 10_000
HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 15.0
# A replica that can't be built is the fault of its settings more often than not.
BUILD_TRIES = 3
# What a replica that is to end waits longer than its last request may take.
DRAIN_MARGIN_S = 5.0
DRAIN_LOOP_S = 0.5


@serve.ingress()
class FrontDoor:
    """Speaks HTTP, and hands requests to the models by their names.

    Args:
        handles: the models.
        keys: who may use them; None is everybody.
        limits: what one request may take.
        batch_dir: where files and batches are; None has none.
        batch_worker: who runs them.
    """

    def __init__(
        self,
        handles: Mapping[str, DeploymentHandle[Any]],
        keys: Keys | None,
        limits: Limits,
        batch_dir: str | None = None,
        batch_worker: DeploymentHandle[Any] | None = None,
    ) -> None:
        self._backends = {name: RemoteBackend(handle) for name, handle in handles.items()}
        self._keys = keys
        self._limits = limits
        self._batches: Batches | None = None
        if batch_dir is not None and batch_worker is not None:
            desk = Desk(Shelf(open_store(batch_dir)), limits)
            self._batches = Batches(desk, batch_worker.metrics.remote)

    def __serve_build_asgi_app__(self) -> FastAPI:
        metrics = Metrics(beside=RayMetrics(FRONT_DOOR_METRICS))
        return make_app(
            self._backends, self._keys, self._limits, metrics=metrics, batches=self._batches
        )


def application(args: ServeArgs) -> serve.Application:
    """Give the application that serves these models.

    Raises:
        GemmarayError: a file of keys or a setting can't be used.
    """
    # Read here, so that its digests travel and the file need not be on every node.
    keys = None if args.api_key_file is None else Keys.read(args.api_key_file)
    drain_s = args.limits.timeout_s + DRAIN_MARGIN_S
    models: dict[str, serve.Application] = {}
    names: set[str] = {FRONT_DOOR, BATCH_WORKER}
    for model in args.models:
        name = _deployment_name(model.served_name, names)
        names.add(name)
        deployment = serve.deployment(**_options(model, name, drain_s))(ServedEndpoint)
        models[model.served_name] = deployment.bind(
            model.served_name, model.engine_config(), model.system, model.hang_s
        )
    door = serve.deployment(
        name=FRONT_DOOR,
        num_replicas=args.front_doors,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=FRONT_DOOR_REQUESTS,
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=DRAIN_LOOP_S,
    )(FrontDoor)
    if args.batch_dir is None:
        return door.bind(models, keys, args.limits)
    directory = str(parse_location(args.batch_dir))
    return door.bind(models, keys, args.limits, directory, _worker(args, models, directory))


def _worker(
    args: ServeArgs, models: Mapping[str, serve.Application], directory: str
) -> serve.Application:
    """Give the part that runs batches; what it leaves undone, another one finds."""
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
    return deployment.bind(models, lines, directory, args.limits, args.batches_at_once)


def _options(model: ModelArgs, name: str, drain_s: float) -> dict[str, Any]:
    """Give the options of a model's deployment."""
    least, most = model.replica_range
    options: dict[str, Any] = {
        "name": name,
        "ray_actor_options": _resources(model),
        "max_ongoing_requests": model.max_ongoing,
        "max_queued_requests": model.max_queued,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": drain_s,
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
