"""Prompts that are computed in windows: several requests of the engine, one of the caller."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from model.errors import ParameterError
from model.long_texts import WindowedPrompt
from model.outputs import RequestOutput, RequestUpdate
from model.params import EngineConfig
from model.tasks import Task

from .core import EngineCore
from .request import Prompt
from .watchdog import OnStuck
from .windows import joined, window_tasks


@dataclass(slots=True)
class _Whole:
    """A request whose windows are being computed.

    Attributes:
        prompt: its tokens and windows.
        tasks: of the whole.
        parts: the requests that its windows became, each with its output once it has one.
    """

    prompt: WindowedPrompt
    tasks: Sequence[Task]
    parts: dict[str, RequestOutput | None] = field(default_factory=dict)

    def output(self, request_id: str) -> RequestOutput | None:
        """Return the output of the whole, once all parts have theirs."""
        outputs = [output for output in self.parts.values() if output is not None]
        if len(outputs) < len(self.parts):
            return None
        results = tuple(
            joined(self.prompt, task, [output.results[number] for output in outputs])
            for number, task in enumerate(self.tasks)
        )
        return RequestOutput(request_id, len(self.prompt.ids), results)


class WindowedEngine(EngineCore):
    """An engine that takes windowed prompts too. Each window is queued, computed and shared alone.

    Their outputs become one: scores and vectors are means, weighted by the tokens that no window
    before has, and vectors get unit length again where that was asked for; of entities that overlap
    one is chosen as transformers does; what stands for a single token is taken from the first
    window that has it, which has seen most of what is before it.
    """

    def __init__(self, config: EngineConfig, *, on_stuck: OnStuck | None = None) -> None:
        super().__init__(config, on_stuck=on_stuck)
        self._wholes: dict[str, _Whole] = {}
        self._whole_of: dict[str, str] = {}

    @override
    def add_request(
        self,
        prompt: Prompt,
        tasks: Sequence[Task],
        *,
        request_id: str | None = None,
        stream: bool = False,
        salt: bytes = b"",
        adapter: str | None = None,
    ) -> str:
        if request_id in self._wholes:
            raise ParameterError(f"request id {request_id!r} is in use")
        if not isinstance(prompt, WindowedPrompt):
            return super().add_request(
                prompt, tasks, request_id=request_id, stream=stream, salt=salt, adapter=adapter
            )
        self.check(tasks)
        name = request_id if request_id is not None else next(self._names)
        whole = self._wholes[name] = _Whole(prompt, tasks)
        try:
            for number, places in enumerate(prompt.places()):
                part = f"{name}\0{number}"
                ids, asked = [prompt.ids[n] for n in places], window_tasks(tasks, places)
                super().add_request(ids, asked, request_id=part, salt=salt, adapter=adapter)
                whole.parts[part] = None
                self._whole_of[part] = name
        except BaseException:
            self.abort(name)
            raise
        return name

    @override
    def step(self) -> list[RequestUpdate]:
        updates = []
        for update in super().step():
            whole = self._whole_of.get(update.request_id)
            told = update if whole is None else self._taken(whole, update)
            if told is not None:
                updates.append(told)
        return updates

    @override
    def abort(self, request_id: str) -> bool:
        whole = self._wholes.pop(request_id, None)
        if whole is None:
            return super().abort(request_id)
        for part in whole.parts:
            self._whole_of.pop(part, None)
            super().abort(part)
        return True

    def _taken(self, name: str, update: RequestUpdate) -> RequestUpdate | None:
        """Take what a window says; return what there is to say of the whole."""
        if update.error is not None:
            self.abort(name)
            return RequestUpdate(name, error=update.error)
        whole = self._wholes[name]
        whole.parts[update.request_id] = update.output
        output = whole.output(name)
        if output is None:
            return None
        self.abort(name)
        return RequestUpdate(name, output=output)
