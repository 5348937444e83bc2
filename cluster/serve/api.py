"""The FastAPI application: routes, errors, and what stands before them."""

from collections.abc import Mapping
from importlib.metadata import version

from fastapi import FastAPI

from .access import Access, Keys
from .backend import Backend
from .batches.front import Batches
from .body_limit import BodyLimit
from .errors import install
from .metrics import Metrics
from .observing import Observing
from .routes import batches as batch_routes
from .routes import (
    chat,
    completions,
    embeddings,
    files,
    labelling,
    page,
    service,
    status,
    tokens,
)
from .server import Server
from .settings import Limits

# What surrounds a file in the form that it is sent in.
FORM_BYTES = 1 << 16
DESCRIPTION = (
    "Gemma 2 behind OpenAI's API. A field that is not known or not supported is an error. Every "
    "route below but /health takes a key, unless the server is open to everybody."
)
HEALTH = "/health"


def make_app(
    backends: Mapping[str, Backend],
    keys: Keys | None,
    limits: Limits | None = None,
    *,
    metrics: Metrics | None = None,
    batches: Batches | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        backends: the models by name.
        keys: who may use them; None is everybody.
        limits: what one request may take.
        metrics: what is counted in; its own by default.
        batches: files and batches; None has none.
    """
    app = FastAPI(
        title="gemmaray",
        version=version("gemmaray"),
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's own is fetched from other servers
        redoc_url=None,
    )
    limits = limits or Limits()
    app.state.server = server = Server(backends, limits, metrics or Metrics(), batches)
    for family in (chat, completions, embeddings, labelling, tokens, files, batch_routes):
        app.include_router(family.router)
    for family in (service, status):
        app.include_router(family.router)
    app.include_router(page.make_router())
    install(app)
    # The one added last stands first.
    uploads = {files.UPLOADS: limits.max_file_bytes + FORM_BYTES} if batches else {}
    app.add_middleware(BodyLimit, most=limits.max_body_bytes, at=uploads)
    app.add_middleware(Access, keys=keys, open_paths={HEALTH, *page.paths()})
    app.add_middleware(Observing, metrics=server.metrics)
    return app
