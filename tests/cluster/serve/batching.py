"""Batches without Ray: a shelf, and a worker in a thread of its own."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import openai

from actors.calls import Call, Card, Failure, Prompt, PromptAnswer, Tokens
from cluster.serve.backend import Backend
from cluster.serve.batches.answering import Answerer, Lane
from cluster.serve.batches.desk import Desk
from cluster.serve.batches.front import Batches
from cluster.serve.batches.shelf import Shelf
from cluster.serve.batches.worker import Worker
from cluster.serve.settings import Limits
from model.outputs import Completion, GenerationOutput
from pipelines.storage import open_store

from .conftest import SOON, until

POLL_S = 0.02
CHATS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"


class Scripted:
    """A model that says its prompt, after what a test does with it.

    Attributes:
        calls: prompts in the order of their calls.
        before: awaited before each answer; may raise.
    """

    def __init__(self, before: Callable[[str], Any] | None = None) -> None:
        self.calls: list[str] = []
        self.salts: set[bytes] = set()
        self.ongoing = self.most = 0
        self.before = before

    async def compute(self, call: Call) -> list[PromptAnswer] | Failure:
        text = getattr(call.prompts[0], "text", "")
        self.calls.append(text)
        self.salts.add(call.salt)
        self.ongoing += 1
        self.most = max(self.most, self.ongoing)
        try:
            if self.before is not None and (waited := self.before(text)) is not None:
                await waited
        finally:
            self.ongoing -= 1
        output = GenerationOutput(1, (Completion((5,), text, "stop", 0.0),))
        return [PromptAnswer(1, (output,))]

    async def describe(self) -> Card:
        raise NotImplementedError

    def stream(self, call: Call) -> Any:
        raise NotImplementedError

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        raise NotImplementedError

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        raise NotImplementedError


def shelf_at(url: object) -> Shelf:
    return Shelf(open_store(str(url)))


def batches_on(shelf: Shelf, limits: Limits | None = None, worker: Worker | None = None) -> Batches:
    async def metrics() -> bytes:
        assert worker is not None
        return worker.metrics.text()

    return Batches(Desk(shelf, limits or Limits()), metrics)


def a_worker(
    shelf: Shelf, backends: Mapping[str, Backend], limits: Limits | None = None, **options: Any
) -> Worker:
    lanes = {name: Lane(backend, options.pop("most", 8)) for name, backend in backends.items()}
    answerer = Answerer(lanes, first_pause_s=0.001)
    return Worker(shelf, answerer, limits or Limits(), **{"poll_s": POLL_S, **options})


@contextmanager
def at_work(worker: Worker) -> Iterator[None]:
    """Have a worker work inside the block; at its end it is cut off wherever it is."""
    loop = asyncio.new_event_loop()
    task: list[asyncio.Task[None]] = []

    async def work() -> None:
        task.append(asyncio.ensure_future(worker.run()))
        await asyncio.wait(task)

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),), daemon=True)
    thread.start()
    until(lambda: task)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task[0].cancel)
        thread.join(SOON)
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def line(custom_id: str, url: str = COMPLETIONS, /, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(lines: Sequence[Any]) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in lines).encode()


def created(
    client: openai.OpenAI, lines: Sequence[Any], endpoint: str = COMPLETIONS, **options: Any
) -> Any:
    """Upload lines and make a batch of them."""
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,  # type: ignore[arg-type]
        completion_window="24h",
        **options,
    )


def finished(client: openai.OpenAI, batch_id: str, seconds: float = SOON) -> Any:
    end = time.monotonic() + seconds
    while True:
        batch = client.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch
        assert time.monotonic() < end, batch
        time.sleep(POLL_S)


def results(client: openai.OpenAI, batch: Any) -> tuple[list[Any], list[Any]]:
    """Give the lines of the output file and of the error file."""

    def read(file_id: str | None) -> list[Any]:
        if file_id is None:
            return []
        return [json.loads(item) for item in client.files.content(file_id).text.splitlines()]

    return read(batch.output_file_id), read(batch.error_file_id)
