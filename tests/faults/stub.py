"""A replica whose engine computes nothing, and misbehaves when told to.

It is pickled by value (`shipped`), so that Ray's workers need not find this package.
"""

import errno
import hashlib
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import pyarrow as pa
import ray

import actors.replica
from actors.replica import Replica
from model.outputs import Completion, GenerationOutput, RequestOutput, RequestUpdate
from model.stats import EngineStats
from model.tasks import Generate, Task
from pipelines.local_store import LocalStore

STEP_S = 0.002
ROWS_PER_STEP = 32
TOKENS = 4
SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Mischief:
    """What an engine does at a prompt of so many tokens or more.

    Attributes:
        kind: it kills its process, takes memory until there is none, or finds the disk full when
            it writes a part, whatever the prompt.
        prompt_tokens: from which length on.
        folder: each act leaves a file there, before it happens.
        times: how often, all processes together; None is every time.
    """

    kind: Literal["kill", "exhaust", "full disk"]
    prompt_tokens: int
    folder: str
    times: int | None = None

    def act(self, prompt: Sequence[int]) -> None:
        """Misbehave, if this is the prompt and the time for it."""
        if self.kind != "full disk" and len(prompt) >= self.prompt_tokens and self._is_time():
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            _exhaust()

    def fill_disk(self) -> None:
        """Let the disk be full, if it is to be, for parts."""
        as_it_is = LocalStore.put_if_absent

        def put_if_absent(store: LocalStore, name: str, data: bytes) -> bool:
            if name.startswith("part-") and self._is_time():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{store.url}/{name}")
            return as_it_is(store, name, data)

        if self.kind == "full disk":
            LocalStore.put_if_absent = put_if_absent  # type: ignore[method-assign]

    def _is_time(self) -> bool:
        done = len(list(Path(self.folder).iterdir()))
        if self.times is not None and done >= self.times:
            return False
        Path(self.folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return True


class StubEngine:
    """Answers each request with a digest of its prompt and seed, so that a mix-up shows."""

    def __init__(self, mischief: Mischief | None) -> None:
        self.stats = EngineStats()
        self._mischief = mischief
        self._waiting: dict[str, tuple[list[int], Generate]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def add_request(
        self, prompt: Sequence[int], tasks: Sequence[Task], *, request_id: str, **_: Any
    ) -> str:
        (task,) = tasks
        assert isinstance(task, Generate)
        self._waiting[request_id] = (list(prompt), task)
        return request_id

    def step(self) -> list[RequestUpdate]:
        time.sleep(STEP_S)
        self.stats.steps += 1
        names = list(self._waiting)[:ROWS_PER_STEP]
        return [RequestUpdate(name, (), self._answer(name)) for name in names]

    def abort(self, request_id: str) -> bool:
        return self._waiting.pop(request_id, None) is not None

    def close(self) -> None:
        pass

    def _answer(self, name: str) -> RequestOutput:
        prompt, task = self._waiting.pop(name)
        if self._mischief:
            self._mischief.act(prompt)
        self.stats.prompt_tokens += len(prompt)
        self.stats.output_tokens += TOKENS
        text = hashlib.sha256(f"{task.params.seed} {prompt}".encode()).hexdigest()
        completion = Completion(tuple(range(TOKENS)), text, "length", 0.0)
        return RequestOutput(name, len(prompt), (GenerationOutput(len(prompt), (completion,)),))


class StubReplica(Replica):
    """The replica as it is, on a stub engine; it keeps a journal of the units that it begins."""

    journal: str | None = None
    mischief: Mischief | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        mischief = self.mischief
        # In a worker's process, which ends with its job.
        actors.replica._build = lambda *_, **__: StubEngine(mischief)  # type: ignore[assignment]
        if mischief:
            mischief.fill_disk()
        super().__init__(*arguments, **options)

    async def __call__(self, packet: pa.Table) -> pa.Table:
        if self.journal:
            _append(self.journal, self._work.name(packet))
        return await super().__call__(packet)


def shipped(journal: Path | None = None, mischief: Mischief | None = None) -> type[Replica]:
    """Give a replica class that Ray can send to any worker."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    options = {"journal": journal and str(journal), "mischief": mischief}
    return type("StubReplica", (StubReplica,), options)


def users() -> list[Any]:
    """Give the modules of a job that start replicas."""
    modules = [module for name, module in sys.modules.items() if name.startswith("pipelines.")]
    return [module for module in modules if getattr(module, "Replica", None) is Replica]


def _append(path: str, line: str) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _exhaust() -> None:
    """Take all the memory that a limit leaves."""
    used = psutil.Process().memory_info().vms
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, hard))
    hoard = []
    while True:
        hoard.append(bytearray(SPARE_BYTES // 8))
