"""Where files and batches lie, and who of the front doors and the worker writes what.

    queue/BATCH.OWNER                   a batch that has not ended, and what it is: an Order
    queue/BATCH.OWNER.cancelled         that it is to end
    owners/OWNER/files/FILE.json        a file: a FileObject
    owners/OWNER/contents/FILE.jsonl    what is in it
    owners/OWNER/batches/BATCH.json     what was asked for: the Order again
    owners/OWNER/work/BATCH/FACT.json   what has happened since
    owners/OWNER/work/BATCH/job/        the output of its job, while that runs

A fact is written once, by whoever is first. So there is nothing to lock, and whoever dies between
two facts leaves a batch that goes on from there. `progress` alone is written again and again.
"""

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.serve.protocol.batches import Batch, Ended, RequestCounts, Status
from cluster.serve.protocol.files import FileObject
from pipelines.locations import parse_location
from pipelines.storage import Store, open_store

from .orders import Entry, Order

FILE_ID = re.compile(r"file-[0-9a-f]{32}(-output|-errors)?")
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
ENTRY = re.compile(r"(batch_[0-9a-f]{32})\.([0-9a-f]{32})")
PIECE_BYTES = 1 << 20
READ_THREADS = 16
# What has happened, and when: in the order of the states that they bring about, the last one first.
FACTS = ("cancelling", "finalizing", "checked")


class Shelf:
    """Reads and writes all of it. Everything here blocks; threads and processes may share one.

    Args:
        store: the folder, or the prefix on S3.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- files -------------------------------------------------------------------------------------

    def add_file(self, owner: str, file: FileObject, pieces: Iterable[bytes]) -> FileObject:
        """Keep a file, which its owner sees from then on; its size is found here."""
        size = self.store.write(_contents(owner, file.id), pieces)
        file = file.model_copy(update={"bytes": size})
        self.store.write(_file(owner, file.id), [file.model_dump_json().encode()])
        return file

    def file(self, owner: str, file_id: str) -> FileObject | None:
        """Find a file of this owner."""
        if not FILE_ID.fullmatch(file_id):
            return None
        try:
            return FileObject.model_validate_json(self.store.read(_file(owner, file_id)))
        except FileNotFoundError:
            return None

    def file_ids(self, owner: str) -> list[str]:
        """Give the ids of an owner's files, the latest first."""
        return _ids(self.store.names(f"owners/{owner}/files"))

    def pieces(self, owner: str, file_id: str) -> Iterator[bytes]:
        """Read what is in a file."""
        with self.store.open(_contents(owner, file_id)) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def contents(self, owner: str, file_id: str) -> str:
        """Give the path or URL of what is in a file."""
        return str(parse_location(f"{self.store.url}/{_contents(owner, file_id)}"))

    def remove_file(self, owner: str, file_id: str) -> None:
        """Forget a file; what was in it goes first."""
        self.store.delete(_contents(owner, file_id))
        self.store.delete(_file(owner, file_id))

    # -- batches, as their owners see them ---------------------------------------------------------

    def add_batch(self, order: Order) -> None:
        """Keep a batch; once it is in the queue the worker would do the rest."""
        data = order.model_dump_json().encode()
        self.store.put_if_absent(Entry(order.id, order.owner).name, data)
        self.store.put_if_absent(_order(order.owner, order.id), data)

    def batch_ids(self, owner: str) -> list[str]:
        """Give the ids of an owner's batches, the latest first."""
        return _ids(self.store.names(f"owners/{owner}/batches"))

    def order(self, owner: str, batch_id: str) -> Order | None:
        """Find what a batch of this owner was to be."""
        if not BATCH_ID.fullmatch(batch_id):
            return None
        return self._order(_order(owner, batch_id))

    def batch(self, order: Order) -> Batch:
        """Say how far a batch is."""
        known = self.store.names(order.work)
        if "end.json" in known:
            return Batch.model_validate_json(self.store.read(f"{order.work}/end.json"))
        there = [name for name in FACTS if f"{name}.json" in known]
        facts = {name: self._fact(order, name) for name in there}
        progress = self._fact(order, "progress") if "progress.json" in known else {}
        return _batch(order, facts, progress)

    def cancel(self, order: Order, at: int) -> None:
        """Have a batch end."""
        self.state(order, "cancelling", at=at)
        self.store.put_if_absent(Entry(order.id, order.owner).mark, b"")

    def each(self, read: Any, ids: Iterable[str]) -> list[Any]:
        """Read several things at a time, since each of them is a request on S3."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(read, ids))

    # -- batches, as the worker sees them ----------------------------------------------------------

    def waiting(self) -> dict[Entry, bool]:
        """Give the batches that have not ended, the first made first, and which were cancelled."""
        names = self.store.names("queue")
        matches = map(ENTRY.fullmatch, sorted(names))
        entries = [Entry(match[1], match[2]) for match in matches if match]
        return {entry: entry.mark.removeprefix("queue/") in names for entry in entries}

    def taken(self, entry: Entry) -> Order | None:
        """Read what is to be done, and make sure that its owner sees it; None if it has ended."""
        order = self._order(entry.name)
        if order is not None:
            self.add_batch(order)
        return order

    def state(self, order: Order, fact: str, **values: Any) -> dict[str, Any]:
        """State a fact, and give what is stated of it: by whoever was first."""
        name = f"{order.work}/{fact}.json"
        if self.store.put_if_absent(name, json.dumps(values).encode()):
            return values
        return self._fact(order, fact)

    def is_stated(self, order: Order, fact: str) -> bool:
        """Say whether a fact is there."""
        return f"{fact}.json" in self.store.names(order.work)

    def show_progress(self, order: Order, counts: RequestCounts) -> None:
        """Tell how many lines are done."""
        data = json.dumps({"completed": counts.completed, "failed": counts.failed}).encode()
        self.store.write(f"{order.work}/progress.json", [data])

    def job(self, order: Order) -> Store:
        """Give the output folder of a batch's job."""
        return open_store(f"{self.store.url}/{order.work}/job")

    def tried(self, order: Order, progress: int) -> int:
        """Note that work on a batch begins, and say how often it did since it got so far."""
        folder, beginning = f"{order.work}/tries", f"{progress:09d}-"
        while True:
            number = 1 + sum(n.startswith(beginning) for n in self.store.names(folder))
            if self.store.put_if_absent(f"{folder}/{beginning}{number}", b""):
                return number

    def end(self, order: Order, status: Ended, at: int, **changes: Any) -> None:
        """State how a batch has ended, unless that is stated already; nothing changes after it."""
        now = self.batch(order)
        ended = now.model_copy(update={"status": status, f"{status}_at": at, **changes})
        self.store.put_if_absent(f"{order.work}/end.json", ended.model_dump_json().encode())

    def clear(self, order: Order) -> None:
        """Remove what is of no use once a batch has ended, and take it off the queue."""
        job, tries = f"{order.work}/job", f"{order.work}/tries"
        for folder in (job, f"{job}/_job", tries):
            names = self.store.names(folder)
            self.each(self.store.delete, [f"{folder}/{name}" for name in names])
        entry = Entry(order.id, order.owner)
        self.store.delete(entry.mark)
        self.store.delete(entry.name)

    def _order(self, name: str) -> Order | None:
        try:
            return Order.model_validate_json(self.store.read(name))
        except FileNotFoundError:
            return None

    def _fact(self, order: Order, fact: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.store.read(f"{order.work}/{fact}.json"))
        return values


def _batch(order: Order, facts: dict[str, dict[str, Any]], progress: dict[str, Any]) -> Batch:
    """Put a batch that has not ended together from what is known of it."""
    when = {name: fact["at"] for name, fact in facts.items()}
    status: Status = "validating"
    if "cancelling" in when:
        status = "cancelling"
    elif "finalizing" in when:
        status = "finalizing"
    elif "checked" in when:
        status = "in_progress"
    total = facts["checked"]["total"] if "checked" in facts else 0
    return Batch(
        id=order.id,
        endpoint=order.endpoint,
        input_file_id=order.input_file_id,
        completion_window=order.completion_window,
        status=status,
        created_at=order.created_at,
        in_progress_at=when.get("checked"),
        expires_at=order.expires_at,
        finalizing_at=when.get("finalizing"),
        cancelling_at=when.get("cancelling"),
        request_counts=RequestCounts(total=total, **progress),
        metadata=order.metadata,
    )


def _file(owner: str, file_id: str) -> str:
    return f"owners/{owner}/files/{file_id}.json"


def _contents(owner: str, file_id: str) -> str:
    return f"owners/{owner}/contents/{file_id}.jsonl"


def _order(owner: str, batch_id: str) -> str:
    return f"owners/{owner}/batches/{batch_id}.json"


def _ids(names: Iterable[str]) -> list[str]:
    return sorted((name.removesuffix(".json") for name in names), reverse=True)
