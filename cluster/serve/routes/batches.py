"""/v1/batches."""

from typing import Annotated

from fastapi import APIRouter, Query

from cluster.serve.protocol.batches import Batch, BatchList, CreateBatch, ListBatches

from .common import ERRORS
from .files import DeskOf, KeyOf

router = APIRouter()


@router.post("/v1/batches", responses=ERRORS)
def create(body: CreateBatch, desk: DeskOf, key: KeyOf) -> Batch:
    """Have the requests in a file answered in the background."""
    return desk.create(key, body)


@router.get("/v1/batches", responses=ERRORS)
def batches(desk: DeskOf, key: KeyOf, query: Annotated[ListBatches, Query()]) -> BatchList:
    """List the batches of the key."""
    return desk.batches(key, query)


@router.get("/v1/batches/{batch_id}", responses=ERRORS)
def batch(batch_id: str, desk: DeskOf, key: KeyOf) -> Batch:
    """Say how far a batch is."""
    return desk.batch(key, batch_id)


@router.post("/v1/batches/{batch_id}/cancel", responses=ERRORS)
def cancel(batch_id: str, desk: DeskOf, key: KeyOf) -> Batch:
    """End a batch with what is done."""
    return desk.cancel(key, batch_id)
