"""The front door: speaks HTTP, and hands requests to the models by their names."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.ray_metrics import RayMetrics
from pipelines.locations import parse_location
from pipelines.storage import open_store

from .access import Keys
from .api import make_app
from .backend import with_adapters
from .batches.desk import Desk
from .batches.front import Batches
from .batches.shelf import Shelf
from .deployments import (
    DRAIN_LOOP_S,
    FRONT_DOOR,
    batch_application,
    drain_s,
    model_applications,
)
from .metrics import FRONT_DOOR as FRONT_DOOR_METRICS
from .metrics import Metrics
from .remote import RemoteBackend, node_receiver
from .settings import Limits, ServeArgs

# It awaits others all the time, and refuses by itself what is too much.
FRONT_DOOR_REQUESTS = 10_000

Handles = Mapping[str, DeploymentHandle[Any]]


def front_door(
    handles: Handles,
    keys: Keys | None,
    limits: Limits,
    batch_dir: str | None = None,
    batch_worker: DeploymentHandle[Any] | None = None,
    *,
    parents: Mapping[str, str] | None = None,
) -> FastAPI:
    """Give what answers HTTP, in a process that is connected to Ray.

    Args:
        handles: the models.
        keys: who may use them; None is everybody.
        limits: what one request may take.
        batch_dir: where files and batches are; None has none.
        batch_worker: who runs them.
        parents: the models of adapters, by the adapters' names.

    Raises:
        StorageError: batch_dir can't be used.
    """
    receiver = node_receiver()
    backends = {name: RemoteBackend(handle, receiver) for name, handle in handles.items()}
    batches: Batches | None = None
    if batch_dir is not None and batch_worker is not None:
        desk = Desk(Shelf(open_store(batch_dir)), limits)
        batches = Batches(desk, batch_worker.metrics.remote)
    metrics = Metrics(beside=RayMetrics(FRONT_DOOR_METRICS))
    models = with_adapters(backends, parents or {})
    return make_app(models, keys, limits, metrics=metrics, batches=batches)


@serve.ingress()
class FrontDoor:
    """The front door as a deployment; the arguments are those of front_door."""

    def __init__(
        self,
        handles: Handles,
        keys: Keys | None,
        limits: Limits,
        batch_dir: str | None = None,
        batch_worker: DeploymentHandle[Any] | None = None,
        *,
        parents: Mapping[str, str] | None = None,
    ) -> None:
        self._app = front_door(handles, keys, limits, batch_dir, batch_worker, parents=parents)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


def application(args: ServeArgs) -> serve.Application:
    """Give the application that serves these models.

    Raises:
        GemmarayError: a file of keys or a setting can't be used.
    """
    keys, directory = read_keys(args), batch_directory(args)
    models = model_applications(args)
    door = serve.deployment(
        name=FRONT_DOOR,
        num_replicas=args.front_doors,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=FRONT_DOOR_REQUESTS,
        graceful_shutdown_timeout_s=drain_s(args),
        graceful_shutdown_wait_loop_s=DRAIN_LOOP_S,
    )(FrontDoor)
    if directory is None:
        return door.bind(models, keys, args.limits, parents=args.parents)
    worker = batch_application(args, models, directory)
    return door.bind(models, keys, args.limits, directory, worker, parents=args.parents)


def read_keys(args: ServeArgs) -> Keys | None:
    """Read who may use the models: the digests travel, so the file need not be on every node.

    Raises:
        GemmarayError: the file can't be used.
    """
    return None if args.api_key_file is None else Keys.read(args.api_key_file)


def batch_directory(args: ServeArgs) -> str | None:
    """Give the URL of what is to hold files and batches. Raises StorageError."""
    return None if args.batch_dir is None else str(parse_location(args.batch_dir))
