"""/v1/files."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, UploadFile
from fastapi.responses import StreamingResponse

from cluster.serve.access import ANYBODY, CALLER
from cluster.serve.batches.desk import Desk
from cluster.serve.errors import NO_RETRY, ApiError, bad_request
from cluster.serve.protocol.files import FileDeleted, FileList, FileObject, ListFiles
from cluster.serve.server import ServerOf

from .common import ERRORS

router = APIRouter()

UPLOADS = "/v1/files"
FIELDS = ["file", "purpose"]
# What somebody uploaded is nothing for a browser to show.
DOWNLOAD = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}


def desk_of(server: ServerOf) -> Desk:
    """Find the desk that files and batches go over."""
    if server.batches is None:
        message = "this server has no files and batches: start it with --batch-dir DIR"
        raise ApiError(404, message, code="no_batches", headers=NO_RETRY)
    return server.batches.desk


def key_of(request: Request) -> str:
    """Name the key that a request came with."""
    name: str = request.scope.get(CALLER, ANYBODY).name
    return name


DeskOf = Annotated[Desk, Depends(desk_of)]
KeyOf = Annotated[str, Depends(key_of)]


@router.post(UPLOADS, responses=ERRORS)
async def upload(
    request: Request,
    desk: DeskOf,
    key: KeyOf,
    file: UploadFile,
    purpose: Annotated[Literal["batch"], Form()],  # noqa: ARG001 - there is only one
) -> FileObject:
    """Keep a file of requests, in JSON lines."""
    names = [name for name, _ in (await request.form()).multi_items()]
    if sorted(names) != FIELDS:
        raise bad_request("an upload has the fields file and purpose, each once, and no others")
    # Starlette has put what is large into a temporary file.
    return await asyncio.to_thread(desk.upload, key, file.filename or "", file.file)


@router.get(UPLOADS, responses=ERRORS)
def files(desk: DeskOf, key: KeyOf, query: Annotated[ListFiles, Query()]) -> FileList:
    """List the files of the key."""
    return desk.files(key, query)


@router.get("/v1/files/{file_id}", responses=ERRORS)
def file(file_id: str, desk: DeskOf, key: KeyOf) -> FileObject:
    """Describe a file."""
    return desk.file(key, file_id)


@router.delete("/v1/files/{file_id}", responses=ERRORS)
def delete(file_id: str, desk: DeskOf, key: KeyOf) -> FileDeleted:
    """Forget a file and what is in it."""
    return desk.delete(key, file_id)


@router.get(
    "/v1/files/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **ERRORS},
)
def content(file_id: str, desk: DeskOf, key: KeyOf) -> StreamingResponse:
    """Give what is in a file."""
    pieces = desk.content(key, file_id)
    return StreamingResponse(pieces, media_type="application/octet-stream", headers=DOWNLOAD)
