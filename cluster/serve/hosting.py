"""A front door in this process, before deployments of its own: what `gemmaray serve` is.

Ray Serve's proxies would pass on each piece of each response in a message to another process. Here
clients are connected to the front door itself. Who wants a front door on every node, or one that is
replaced while it works, has `serve deploy`. Each deployment is an application here, since there is
none that calls all others.
"""

import logging
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import ray.util
import uvicorn
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from model.errors import ParameterError

from .deployments import BATCH_WORKER, batch_application, drain_s, model_applications
from .door import batch_directory, front_door, read_keys
from .settings import ServeArgs

# Longer than clients keep a connection that they do not use: who closes it first must not be we.
KEEP_ALIVE_S = 90


@contextmanager
def hosted(args: ServeArgs, listener: socket.socket) -> Iterator[None]:
    """Have models answer at a socket inside the block; requests in flight are answered at its end.

    Args:
        args: what is served; `front_doors` is one here.
        listener: bound; nobody is let in before the models are there.

    Raises:
        GemmarayError: something can't be served.
    """
    keys, directory = read_keys(args), batch_directory(args)
    serve.start(proxy_location="Disabled")
    prefix = _prefix(listener)
    patient = True
    try:
        models = model_applications(args)
        deployed = _deployed(prefix, [(f"model-{n}", app) for n, app in enumerate(models.values())])
        handles = dict(zip(models, deployed, strict=True))
        worker = None
        if directory is not None:
            batches = batch_application(args, handles, directory)
            (worker,) = _deployed(prefix, [(BATCH_WORKER, batches)])
        app = front_door(handles, keys, args.limits, directory, worker, parents=args.parents)
        with listening(app, listener, drain_s(args)):
            yield
    except KeyboardInterrupt:
        patient = False  # a replica would be waited for as long as it has something to answer
        raise
    finally:
        for name in serve.status().applications:
            if name.startswith(prefix):
                serve.delete(name, _blocking=patient)


def _prefix(listener: socket.socket) -> str:
    """Begin the names of applications, which are the cluster's, by what is this command's alone.

    One that was killed leaves them behind; the next one on its port takes their place.
    """
    node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    place = f"{node}-{listener.getsockname()[1]}"
    return "gemmaray-" + re.sub(r"[^0-9A-Za-z]+", "-", place) + "-"


def _deployed(
    prefix: str, applications: Sequence[tuple[str, serve.Application]]
) -> list[DeploymentHandle[Any]]:
    names = [prefix + name for name, _ in applications]
    targets = [
        serve.RunTarget(application, name=name, route_prefix=None)
        for name, (_, application) in zip(names, applications, strict=True)
    ]
    try:
        return serve.run_many(targets)
    except RuntimeError:
        raise ParameterError(f"the models can't be served: {_reason(names)}") from None


def _reason(names: Iterable[str]) -> str:
    """Find what was raised in the messages of deployments, which end with a traceback."""
    known = serve.status().applications
    reports = [each for name in names if name in known for each in known[name].deployments.values()]
    lines = [line.strip() for report in reports for line in report.message.splitlines()]
    told = [line.partition("Error: ")[2] for line in lines if "Traceback" not in line]
    raised = [words for words in told if words]
    return next(iter(raised or filter(None, lines)), "Serve does not say why")


@contextmanager
def listening(app: FastAPI, listener: socket.socket, patience_s: float) -> Iterator[None]:
    """Have an application answer inside the block; signals stay with the main thread.

    What is in flight at its end is answered first, for so long at most. Where the block ends with
    an exception, or one comes while this waits, it is cut off.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=ceil(patience_s),
    )
    server = uvicorn.Server(config)
    # Not `join`: where it was interrupted once, Python 3.11 takes the thread for ended.
    ended = threading.Event()

    def run() -> None:
        try:
            server.run([listener])
        finally:
            ended.set()

    threading.Thread(target=run, name="http", daemon=True).start()
    try:
        while not (server.started or ended.is_set()):
            time.sleep(0.01)
        yield
        server.should_exit = True
        ended.wait()
    except BaseException:
        # What is in flight is cancelled, which frees replicas; uvicorn calls that an error.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server.should_exit = server.force_exit = True
        ended.wait()
        raise
