"""GET /status."""

import asyncio
import time
from dataclasses import asdict

from fastapi import APIRouter

from actors.calls import Card
from cluster.serve.backend import AdapterBackend, Backend, ReplicaStats
from cluster.serve.errors import ApiError
from cluster.serve.protocol.status import EngineStatus, ModelStatus, Status
from cluster.serve.server import ServerOf

from .common import ERRORS

router = APIRouter()

# A model that no replica of can be asked within that time is told without what only they know.
PATIENCE_S = 2.0


@router.get("/status", responses=ERRORS)
async def status(server: ServerOf) -> Status:
    """Say what the models and their replicas do at the moment."""
    models = (
        _model(name, backend)
        for name, backend in server.backends.items()
        if not isinstance(backend, AdapterBackend)  # whose engines are the model's
    )
    return Status(models=await asyncio.gather(*models))


async def _model(name: str, backend: Backend) -> ModelStatus:
    card, state = await asyncio.gather(_card(backend), backend.state())
    return ModelStatus(
        id=name,
        architecture=card.architecture if card else None,
        replicas=dict(state.replicas),
        in_flight=state.in_flight,
        engines=[_engine(one) for one in sorted(state.engines, key=lambda one: one.replica)],
    )


async def _card(backend: Backend) -> Card | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await backend.describe()
    except (TimeoutError, ApiError):
        return None


def _engine(one: ReplicaStats) -> EngineStatus:
    age_s = time.monotonic() - one.read
    return EngineStatus(replica=one.replica, age_s=age_s, **asdict(one.stats))
