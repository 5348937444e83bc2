"""`gemmaray serve`: an application on a Ray of its own, or on a cluster, until it is to end."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from cluster.connect import connected
from cluster.hosts import is_loopback
from cluster.options import UsageError
from cluster.signals import sigterm_interrupts
from model.config import ModelConfig
from model.errors import ParameterError
from model.locate import locate
from model.params import one_line
from model.tokenizer import load_tokenizer
from pipelines.adapters import adapted, inspect_adapter
from pipelines.errors import JobInterrupted

from .access import Keys
from .settings import ModelArgs, ServeArgs


@dataclass(frozen=True, slots=True)
class Place:
    """Where an application listens, and the cluster that it runs on; None is one of its own."""

    host: str
    port: int
    address: str | None

    def __str__(self) -> str:
        """Write the URL of the API."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    @property
    def is_private(self) -> bool:
        """Whether nobody else reaches it but who is on this machine."""
        return is_loopback(self.host)


def serve_models(values: dict[str, Any], place: Place, *, quiet: bool = False) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are in flight then are answered first.

    Args:
        values: of ServeArgs; without api_key_file whoever is on this machine may use the models.
        place: where.
        quiet: print errors only.

    Raises:
        GemmarayError: a setting can't be used, or Ray can't be started.
        JobInterrupted: it was told to end while it loaded, or twice.
    """
    if "api_key_file" not in values and not place.is_private:
        raise UsageError(
            f"{place.host} is open to others: name those who may ask with --api-key-file, "
            "or listen on 127.0.0.1"
        )
    anonymous = "api_key_file" not in values
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    args = _arguments({**values, "anonymous": anonymous})
    if args.api_key_file is not None:
        Keys.read(args.api_key_file)  # what is wrong shows before anything is started
    if place.address is None:
        for model in args.models:
            _inspect(model)
    starting = "joining the Ray cluster" if place.address else "starting Ray on this machine"
    try:
        with _bound(place) as listener:
            console.print(starting)
            # Ray takes SIGTERM for itself when it is connected, so it is taken back then.
            with sigterm_interrupts(), connected(place.address), sigterm_interrupts():
                _serve(args, place, listener, console)
    except KeyboardInterrupt:
        raise JobInterrupted("interrupted") from None


def _serve(args: ServeArgs, place: Place, listener: socket.socket, console: Console) -> None:
    from .hosting import hosted  # noqa: PLC0415 - Ray is imported once its environment is settled

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # what it says is raised as well
    if not console.quiet:
        _log_requests()
    names = ", ".join(model.served_name for model in args.models)
    console.print(f"loading {names}")
    with hosted(_on_this_ray(args), listener), _told_to_end() as end:
        console.print(f"serving {names} at {place}; Ctrl-C ends it")
        while not end.wait(1.0):
            pass
        console.print("ending: requests in flight are answered first; Ctrl-C ends it at once")


def _log_requests() -> None:
    """Write a line for each request, without a word of it, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("cluster.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _on_this_ray(args: ServeArgs) -> ServeArgs:
    """Have engines for which nothing was said share the CPUs of the smallest node."""
    import ray  # noqa: PLC0415

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    cpus = min(node["Resources"].get("CPU", 1.0) for node in nodes if node["Alive"])
    engines = sum(model.replica_range[1] for model in args.models)
    share = cpus / engines
    share = float(floor(share)) if share >= 1 else share
    models = [
        model if "cpus" in model.model_fields_set else model.model_copy(update={"cpus": share})
        for model in args.models
    ]
    return args.model_copy(update={"models": tuple(models)})


def _inspect(model: ModelArgs) -> None:
    """Find what is wrong with a checkpoint before processes are started for it.

    Raises:
        GemmarayError: it can't be found or used.
    """
    settings = model.engine_config()
    folder = locate(settings.checkpoint, settings.revision)
    config = adapted(ModelConfig.from_folder(folder), settings.adapter)
    config.model_len(settings.max_model_len)
    for adapter in filter(None, (settings.adapter, *settings.adapters.values())):
        inspect_adapter(adapter, config)
    load_tokenizer(folder)


def _arguments(values: dict[str, Any]) -> ServeArgs:
    try:
        return ServeArgs.model_validate(values)
    except ValidationError as error:
        raise ParameterError(one_line(error)) from None


@contextmanager
def _bound(place: Place) -> Iterator[socket.socket]:
    """Have a socket at the place inside the block: what is wrong with it shows at once."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((place.host, place.port))
        except OSError as error:
            raise UsageError(f"can't listen on {place.host}:{place.port}: {error}") from None
        yield listener


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """Have an event set by the first Ctrl-C or SIGTERM; the next one is KeyboardInterrupt."""
    told = threading.Event()

    def tell(_number: int, _frame: object) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
