"""Replicas whose engine is a stub, for jobs on Ray, where they have processes of their own."""

import os
from collections.abc import Sequence
from typing import Any

import actors.replica
from actors.replica import Replica
from model.outputs import Completion, GenerationOutput, RequestOutput, RequestUpdate
from model.params import EngineConfig
from model.stats import EngineStats
from model.tasks import Generate, Task

# Prompts longer than this end the process that computes them.
DEADLY_TOKENS = 60


class StubEngine:
    """Answers with what decides a real answer: the prompt and the seed."""

    def __init__(self, deadly: int | None) -> None:
        self.stats = EngineStats()
        self._deadly = deadly
        self._waiting: dict[str, tuple[list[int], int]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def add_request(
        self, prompt: Sequence[int], tasks: Sequence[Task], *, request_id: str, **_: Any
    ) -> str:
        (task,) = tasks
        assert isinstance(task, Generate)
        assert task.params.seed is not None
        self._waiting[request_id] = (list(prompt), task.params.seed)
        return request_id

    def step(self) -> list[RequestUpdate]:
        name = next(iter(self._waiting))
        prompt, seed = self._waiting.pop(name)
        if self._deadly is not None and len(prompt) > self._deadly:
            os._exit(1)
        self.stats.prompt_tokens += len(prompt)
        answer = Completion((1,), f"{sum(prompt)}-{seed}", "stop", 0.0)
        result = GenerationOutput(len(prompt), (answer,))
        return [RequestUpdate(name, (), RequestOutput(name, len(prompt), (result,)))]

    def abort(self, request_id: str) -> bool:
        return self._waiting.pop(request_id, None) is not None

    def close(self) -> None:
        pass


class MildReplica(Replica):
    """Answers everything."""

    deadly: int | None = None

    def __init__(self, config: EngineConfig, work: Any, board: Any) -> None:
        stub: Any = StubEngine
        actors.replica._build = lambda _: stub(self.deadly)
        super().__init__(config, work, board)


class DeadlyReplica(MildReplica):
    """Dies of long prompts."""

    deadly = DEADLY_TOKENS
