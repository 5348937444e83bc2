"""From one line of a batch to its answer, whatever happens to engines meanwhile."""

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.calls import Call, Failure, PromptAnswer
from actors.gate import Gate
from cluster.serve.attending import Deadline, in_time
from cluster.serve.backend import AdapterBackend, Backend
from cluster.serve.errors import ApiError, EngineLostError, as_error, no_such_model, unexpected
from cluster.serve.protocol.base import Request, Usage
from cluster.serve.terms import Terms

from .endpoints import BatchEndpoint, BatchReply

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
# The longest pause, and the first one after a death, which must not be met twice: in first pauses.
LONGEST_PAUSE = 32
PAUSE_AFTER_DEATH = 8
# A line whose replica died so often is sent with no other line on its way, and given up in the end.
DEATHS_TOGETHER = 2
MOST_DEATHS = 5
BUSY = 429


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a line.

    Attributes:
        status: of HTTP, as online; None where it was not asked at all.
        body: the response in JSON; None likewise.
        prompt_tokens: that it counts.
        completion_tokens: likewise.
        error_class: what kind of error it is, if it is one.
        error: in words.
        id: of the answer.
    """

    status: int | None
    body: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error_class: str | None = None
    error: str | None = None
    id: str = field(default_factory=lambda: f"batch_req_{uuid.uuid4().hex}")


class Lane:
    """A model, and the lines that may be on their way to it at a time.

    Args:
        backend: the model.
        most: how many lines.
        beside: a lane whose places are this one's too, so that it has none of its own.
    """

    def __init__(self, backend: Backend, most: int, beside: "Lane | None" = None) -> None:
        self.backend = backend
        self.most = 0 if beside else most
        self.places: asyncio.Semaphore = beside.places if beside else asyncio.Semaphore(most)


def adapter_lanes(lanes: Mapping[str, Lane], parents: Mapping[str, str]) -> dict[str, Lane]:
    """Give the lanes of adapters, which run on the engines of their models.

    Args:
        lanes: of the models.
        parents: the models of adapters, by the adapters' names.
    """
    return {
        name: Lane(AdapterBackend(lanes[parent].backend, parent, name), 0, lanes[parent])
        for name, parent in parents.items()
    }


class Answerer:
    """Asks the served models.

    A full queue and a lost engine are waited out: there is no client who would try again. What
    takes one engine after the other along may be the line itself, as in a job; see
    docs/architecture.md.

    Args:
        lanes: the models by name.
        first_pause_s: before the second try; each pause is twice as long as the one before, up to
            32 times as long.
    """

    def __init__(self, lanes: Mapping[str, Lane], first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._lanes = lanes
        self._first_pause_s = first_pause_s
        self._gate = Gate()

    @property
    def most(self) -> int:
        """Lines that may be on their way at a time."""
        return sum(lane.most for lane in self._lanes.values())

    async def answer(
        self, endpoint: BatchEndpoint, body: Mapping[str, Any], terms: Terms, seed: int
    ) -> Outcome:
        """Answer a line.

        Args:
            endpoint: that the line is for.
            body: of the request.
            terms: whose it is.
            seed: see BatchEndpoint.read.
        """
        try:
            request = endpoint.read(body, seed)
            lane = self._lane(request)
            call = endpoint.call(request, terms)
            async with lane.places:
                work = self._persistent(lane.backend, call)
                if request.timeout is not None:
                    work = in_time(Deadline(request.timeout), work)
                answers = await work
            return _answered(endpoint.reply(request, answers))
        except ApiError as error:
            return refused(error)
        except Exception as error:  # noqa: BLE001 - it is this line's alone
            logger.warning("a line of a batch failed: %s", type(error).__name__)
            return refused(unexpected())

    def _lane(self, request: Request) -> Lane:
        lane = self._lanes.get(request.model)
        if lane is None:
            raise no_such_model(self._lanes)
        return lane

    async def _persistent(self, backend: Backend, call: Call) -> Sequence[PromptAnswer]:
        deaths, pause = 0, self._first_pause_s
        while deaths < MOST_DEATHS:
            try:
                async with self._gate.enter(alone=deaths >= DEATHS_TOGETHER):
                    return await _asked(backend, call)
            except _AgainError as again:
                if again.died:
                    deaths, pause = deaths + 1, max(pause, PAUSE_AFTER_DEATH * self._first_pause_s)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE * self._first_pause_s)
        message = f"the engines that had this request ended, {deaths} times"
        raise ApiError(500, message, code="request_ended_engine")


def refused(error: ApiError) -> Outcome:
    """Give what becomes of a line that can't be answered."""
    return Outcome(
        error.status,
        error.body.model_dump_json(),
        error_class=error.detail.code or error.detail.type,
        error=error.detail.message,
    )


def left_out(code: str, message: str) -> Outcome:
    """Give what becomes of a line that nobody computes any more."""
    return Outcome(None, None, error_class=code, error=message)


class _AgainError(Exception):
    """Another try may do better.

    Attributes:
        died: whether an engine died that had this request.
    """

    def __init__(self, *, died: bool) -> None:
        super().__init__()
        self.died = died


async def _asked(backend: Backend, call: Call) -> list[PromptAnswer]:
    try:
        answers = await backend.compute(call)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody here did that: Serve let go of the call, as it does where a replica ends.
        raise _AgainError(died=False) from None
    except EngineLostError as error:
        raise _AgainError(died=error.held) from None
    except ApiError as error:
        if error.status != BUSY:
            raise
        raise _AgainError(died=False) from None
    except Exception as error:  # noqa: BLE001 - one line's bad luck is not the batch's
        logger.warning("a line of a batch failed: %s", type(error).__name__)
        raise _AgainError(died=True) from None
    if isinstance(answers, Failure):
        if answers.kind == "dead":
            raise _AgainError(died=True)
        raise as_error(answers)
    return answers


def _answered(reply: BatchReply) -> Outcome:
    usage = reply.usage
    assert usage is not None
    generated = usage.completion_tokens if isinstance(usage, Usage) else 0
    return Outcome(200, reply.model_dump_json(), usage.prompt_tokens, generated)
