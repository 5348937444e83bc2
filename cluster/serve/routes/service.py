"""GET /v1/models, /health and /metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from actors.calls import Card
from cluster.serve.protocol.models import Health, ModelCard, ModelList
from cluster.serve.server import ServerOf

from .common import ERRORS

router = APIRouter()

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/v1/models", responses=ERRORS)
async def models(request: Request, server: ServerOf) -> ModelList:
    """List what is served."""
    cards = await server.cards(request)
    return ModelList(data=[_card(name, card) for name, card in cards.items()])


@router.get("/v1/models/{model:path}", responses=ERRORS)
async def model(model: str, request: Request, server: ServerOf) -> ModelCard:
    """Describe one model."""
    ticket = server.ticket(request, model)
    return _card(model, await ticket.result(ticket.backend.describe()))


@router.get("/health", responses=ERRORS)
async def health() -> Health:
    """Say that requests are taken; needs no key."""
    return Health()


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **ERRORS})
async def metrics(server: ServerOf) -> Response:
    """Give the counters for Prometheus."""
    text = server.metrics.text()
    if server.batches is not None:
        text += await server.batches.worker_metrics()
    return Response(text, headers={"content-type": PROMETHEUS})


def _card(name: str, card: Card) -> ModelCard:
    return ModelCard(
        id=name,
        created=card.loaded,
        architecture=card.architecture,
        max_model_len=card.max_model_len,
        chat=card.chat,
        system=card.system,
        parent=card.parent,
    )
