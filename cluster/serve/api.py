"""The FastAPI application: routes, errors, and what stands before them."""

from collections.abc import Mapping
from importlib.metadata import version

from fastapi import FastAPI

from .access import Access, Keys
from .backend import Backend
from .body_limit import BodyLimit
from .errors import install
from .metrics import Metrics
from .observing import Observing
from .routes import chat, completions, embeddings, labelling, page, service, status, tokens
from .server import Server
from .settings import Limits

DESCRIPTION = (
    "Gemma 2 behind OpenAI's API. A field that is not known or not supported is an error. Every "
    "route below but /health takes a key, unless the server is open to everybody."
)
HEALTH = "/health"


def make_app(
    backends: Mapping[str, Backend],
    keys: Keys | None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        backends: the models by name.
        keys: who may use them; None is everybody.
        limits: what one request may take.
        metrics: what is counted in; its own by default.
    """
    app = FastAPI(
        title="gemmaray",
        version=version("gemmaray"),
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's own is fetched from other servers
        redoc_url=None,
    )
    app.state.server = server = Server(backends, limits or Limits(), metrics or Metrics())
    for family in (chat, completions, embeddings, labelling, tokens, service, status):
        app.include_router(family.router)
    app.include_router(page.make_router())
    install(app)
    # The one added last stands first.
    app.add_middleware(BodyLimit, most=server.limits.max_body_bytes)
    app.add_middleware(Access, keys=keys, open_paths={HEALTH, *page.paths()})
    app.add_middleware(Observing, metrics=server.metrics)
    return app
