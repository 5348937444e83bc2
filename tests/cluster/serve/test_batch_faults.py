"""Every write of a batch fails once, before or after it took effect: it ends well all the same."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.serve.batches.answering import Answerer, Lane
from cluster.serve.batches.desk import Desk
from cluster.serve.batches.orders import Order
from cluster.serve.batches.shelf import Shelf
from cluster.serve.batches.worker import Worker
from cluster.serve.protocol.batches import CreateBatch
from cluster.serve.settings import Limits
from pipelines.storage import Store, open_store

from .batching import Scripted, at_work, jsonl, line
from .conftest import until

LINES = 70


@dataclass
class Fault:
    """Which write fails, and how.

    Attributes:
        left: writes until then.
        late: whether it has taken effect.
        tripped: whether it has happened.
    """

    left: int
    late: bool
    tripped: bool = False

    def __call__(self, write: Any, *args: Any) -> Any:
        self.left -= 1
        fails = self.left == -1
        if fails:
            self.tripped = True
        if fails and not self.late:
            raise OSError("the disk is full")
        result = write(*args)
        if fails:
            raise OSError("the reply was lost")
        return result


@dataclass
class Faulty:
    """A store one of whose writes fails."""

    store: Store
    fault: Fault
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.store.url

    def put_if_absent(self, name: str, data: bytes) -> bool:
        return bool(self.fault(self.store.put_if_absent, name, data))

    def write(self, name: str, pieces: Iterable[bytes]) -> int:
        return int(self.fault(self.store.write, name, pieces))

    def delete(self, name: str) -> None:
        self.fault(self.store.delete, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class FaultyShelf(Shelf):
    """A shelf whose jobs are on the same disk."""

    def __init__(self, store: Store, fault: Fault) -> None:
        super().__init__(Faulty(store, fault))
        self._fault = fault

    def job(self, order: Order) -> Store:
        return Faulty(super().job(order), self._fault)


@pytest.mark.parametrize("late", [False, True])
def test_any_write_may_fail(tmp_path: Path, late: bool) -> None:
    writes, tripped = 0, True
    while tripped:
        tripped = one_fault(tmp_path / f"{writes}", Fault(writes, late))
        writes += 1
    assert writes > 10


def one_fault(folder: Path, fault: Fault) -> bool:
    """Run a batch of good and bad lines; give whether the fault has happened."""
    plain = Shelf(open_store(str(folder)))
    desk = Desk(plain, Limits())
    # Half of them are for a model that is not there.
    lines = [line(f"{n}", model="m" if n % 2 else "x", prompt="p") for n in range(LINES)]
    file = desk.upload("me", "in", io.BytesIO(jsonl(lines)))
    wanted = {"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = desk.create("me", CreateBatch.model_validate(wanted))
    answerer = Answerer({"m": Lane(Scripted(), 100)}, first_pause_s=0.001)
    shelf = FaultyShelf(open_store(str(folder)), fault)
    with at_work(Worker(shelf, answerer, Limits(), poll_s=0.001)):
        until(lambda: not plain.waiting())
    ended = desk.batch("me", batch.id)
    assert ended.status == "completed", fault
    counts = ended.request_counts
    assert (counts.total, counts.completed, counts.failed) == (LINES, LINES // 2, LINES // 2)
    found = Counter(
        json.loads(item)["custom_id"]
        for file_id in (ended.output_file_id, ended.error_file_id)
        for item in b"".join(desk.content("me", file_id or "")).splitlines()
    )
    assert found == Counter(f"{n}" for n in range(LINES)), fault
    left = {path.name for path in folder.rglob("*.parquet")}
    assert not left
    shutil.rmtree(folder)
    return fault.tripped
