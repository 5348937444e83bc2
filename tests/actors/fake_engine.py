"""An engine that computes nothing, and does so just like the real one."""

import threading
from collections.abc import Sequence
from typing import Any

from model.engine import EngineStats
from model.errors import PromptError
from model.outputs import (
    Completion,
    GenerationOutput,
    RequestOutput,
    RequestUpdate,
    TokenDelta,
)
from model.params import SamplingParams
from model.tasks import Generate, Task


class FakeEngine:
    """Gives each request `max_tokens` tokens, one per step.

    A prompt of [13] is refused, [86] breaks the engine.
    """

    def __init__(self) -> None:
        self.stats = EngineStats()
        self.aborted: list[str] = []
        self.closed = False
        self.thread = threading.get_ident()
        self.most = 0
        self._running: dict[str, tuple[list[int], int, list[int], bool]] = {}

    @property
    def has_work(self) -> bool:
        self._same_thread()
        return bool(self._running)

    def add_request(
        self,
        prompt: Sequence[int],
        tasks: Sequence[Task],
        *,
        request_id: str,
        stream: bool = False,
        salt: bytes = b"",
        adapter: str | None = None,
    ) -> str:
        self._same_thread()
        if list(prompt) == [13]:
            raise PromptError("unlucky")
        (task,) = tasks
        assert isinstance(task, Generate)
        self._running[request_id] = (list(prompt), task.params.max_tokens, [], stream)
        self.most = max(self.most, len(self._running))
        return request_id

    def step(self) -> list[RequestUpdate]:
        self._same_thread()
        self.stats.steps += 1
        updates = []
        for name, (prompt, limit, tokens, stream) in list(self._running.items()):
            if prompt == [86]:
                raise RuntimeError("boom")
            tokens.append(prompt[0] + len(tokens))
            deltas = (TokenDelta(0, (tokens[-1],), str(tokens[-1])),) if stream else ()
            output = None
            if len(tokens) == limit:
                del self._running[name]
                completion = Completion(tuple(tokens), "".join(map(str, tokens)), "length", 0.0)
                result = GenerationOutput(len(prompt), (completion,))
                output = RequestOutput(name, len(prompt), (result,))
            if deltas or output:
                updates.append(RequestUpdate(name, deltas, output))
        return updates

    def abort(self, request_id: str) -> bool:
        self._same_thread()
        self.aborted.append(request_id)
        return self._running.pop(request_id, None) is not None

    def close(self) -> None:
        self._same_thread()
        self.closed = True

    def _same_thread(self) -> None:
        assert threading.get_ident() == self.thread, "an engine belongs to one thread"


def generate(tokens: int = 3, **changes: Any) -> list[Task]:
    return [Generate(SamplingParams(max_tokens=tokens, **changes))]
