"""What front doors do with files and batches: each key with its own, and with no other's."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from cluster.serve.errors import NO_RETRY, ApiError, bad_request
from cluster.serve.protocol.batches import Batch, BatchList, CreateBatch, ListBatches
from cluster.serve.protocol.files import (
    MOST_LISTED,
    FileDeleted,
    FileList,
    FileObject,
    ListFiles,
)
from cluster.serve.settings import Limits

from .orders import Order, new_id, owner_of, purpose_of
from .shelf import PIECE_BYTES, Shelf

LONGEST_NAME = 255


class Desk:
    """Everything here blocks, and may raise ApiError.

    Args:
        shelf: where files and batches are.
        limits: how much of them there may be.
        now: gives the time in seconds since 1970.
    """

    def __init__(self, shelf: Shelf, limits: Limits, now: Callable[[], float] = time.time) -> None:
        self._shelf = shelf
        self._limits = limits
        self._now = now

    def upload(self, who: str, filename: str, source: BinaryIO) -> FileObject:
        """Keep a file."""
        now = self._now()
        file = FileObject(
            id=new_id("file-", now),
            bytes=0,
            created_at=int(now),
            filename=filename[:LONGEST_NAME],
            purpose="batch",
        )
        return self._shelf.add_file(owner_of(who), file, _pieces(source))

    def file(self, who: str, file_id: str) -> FileObject:
        """Find a file."""
        file = self._shelf.file(owner_of(who), file_id)
        if file is None:
            raise _not_found("file")
        return file

    def files(self, who: str, query: ListFiles) -> FileList:
        """List files."""
        owner = owner_of(who)
        ids = [n for n in self._shelf.file_ids(owner) if query.purpose in {None, purpose_of(n)}]
        if query.order == "asc":
            ids = [n for n in reversed(ids) if query.after is None or n > query.after]
        else:
            ids = _behind(ids, query.after)
        some = ids[: min(query.limit, MOST_LISTED)]
        page = [file for file in self._shelf.each(partial(self._shelf.file, owner), some) if file]
        first, last = _ends(page)
        more = len(ids) > len(some)
        return FileList(data=page, first_id=first, last_id=last, has_more=more)

    def content(self, who: str, file_id: str) -> Iterator[bytes]:
        """Read a file."""
        self.file(who, file_id)
        return self._shelf.pieces(owner_of(who), file_id)

    def delete(self, who: str, file_id: str) -> FileDeleted:
        """Forget a file, unless a batch needs it."""
        self.file(who, file_id)
        owner = owner_of(who)
        orders = self._shelf.each(partial(self._shelf.order, owner), self._open(owner))
        if any(order and order.input_file_id == file_id for order in orders):
            message = "a batch that has not ended reads this file: cancel it, or wait for its end"
            raise ApiError(409, message, code="file_in_use", headers=NO_RETRY)
        self._shelf.remove_file(owner, file_id)
        return FileDeleted(id=file_id)

    def create(self, who: str, body: CreateBatch) -> Batch:
        """Put a batch into the queue."""
        owner, now = owner_of(who), self._now()
        file = self._shelf.file(owner, body.input_file_id)
        if file is None or file.purpose != "batch":
            message = "there is no such file with the purpose batch"
            raise bad_request(message, param="input_file_id")
        if len(self._open(owner)) >= self._limits.max_open_batches:
            message = f"{self._limits.max_open_batches} batches of this key have not ended yet"
            raise ApiError(429, message, code="too_many_batches", headers=NO_RETRY)
        order = Order(
            id=new_id("batch_", now),
            owner=owner,
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            created_at=int(now),
            expires_at=int(now) + body.window_s,
            metadata=body.metadata,
        )
        self._shelf.add_batch(order)
        return self._shelf.batch(order)

    def batch(self, who: str, batch_id: str) -> Batch:
        """Say how far a batch is."""
        return self._shelf.batch(self._order(who, batch_id))

    def batches(self, who: str, query: ListBatches) -> BatchList:
        """List batches, the latest first."""
        ids = _behind(self._shelf.batch_ids(owner_of(who)), query.after)
        page = self._shelf.each(partial(self.batch, who), ids[: query.limit])
        first, last = _ends(page)
        more = len(ids) > len(page)
        return BatchList(data=page, first_id=first, last_id=last, has_more=more)

    def cancel(self, who: str, batch_id: str) -> Batch:
        """Have a batch end with what is done."""
        order = self._order(who, batch_id)
        batch = self._shelf.batch(order)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            message = f"the batch can't be cancelled any more: it is {batch.status}"
            raise ApiError(409, message, code="batch_ended", headers=NO_RETRY)
        self._shelf.cancel(order, int(self._now()))
        return self._shelf.batch(order)

    def _order(self, who: str, batch_id: str) -> Order:
        order = self._shelf.order(owner_of(who), batch_id)
        if order is None:
            raise _not_found("batch")
        return order

    def _open(self, owner: str) -> list[str]:
        return [entry.batch_id for entry in self._shelf.waiting() if entry.owner == owner]


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(PIECE_BYTES):
        yield piece


def _behind(ids: list[str], after: str | None) -> list[str]:
    """Give the ids that are older than one, which may be gone."""
    return [n for n in ids if after is None or n < after]


def _ends(page: Sequence[FileObject | Batch]) -> tuple[str | None, str | None]:
    return (page[0].id, page[-1].id) if page else (None, None)


def _not_found(what: str) -> ApiError:
    return ApiError(404, f"there is no such {what}", code="not_found")
