"""An engine that answers calls as they come: what online serving is made of.

Nothing here knows HTTP or Ray: a deployment of Ray Serve holds one, and so does a test.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from model.chat import SystemPolicy
from model.errors import EngineDeadError, GemmarayError
from model.outputs import RequestOutput, TokenDelta
from model.params import EngineConfig

from .calls import (
    Added,
    Begun,
    Call,
    Card,
    Ended,
    EndpointStats,
    Event,
    Failure,
    Prompt,
    PromptAnswer,
    Tokens,
)
from .engine_thread import EngineThread
from .preparing import Prepared, Preparer

if TYPE_CHECKING:
    from model import Engine

HANG_S = 120.0
TOO_LONG = "context_length_exceeded"

Answers = list[PromptAnswer]
_Happened = asyncio.Queue[Event | Exception]


class Endpoint:
    """One engine, many calls in flight. A cancelled call is aborted, which frees what it held.

    Args:
        config: what to build.
        system: what becomes of a first system message; see model.chat.prompt_pieces.
        hang_s: an engine that has been in one step for so long counts as hung.

    Raises on construction: what Engine raises.
    """

    def __init__(
        self, config: EngineConfig, system: SystemPolicy = "reject", hang_s: float = HANG_S
    ) -> None:
        engines: list[Engine] = []

        def build() -> "Engine":
            engines.append(_build(config))
            return engines[0]

        self._thread = EngineThread(build)
        # What is read of the engine from here on never changes.
        (engine,) = engines
        self._preparer = Preparer(
            engine.tokenizer, system, engine.max_model_len, engine.model_config.bos_token_id
        )
        self._hang_s = hang_s
        tokenizer = engine.tokenizer
        self._card = Card(
            architecture=engine.model_config.architecture,
            max_model_len=engine.max_model_len,
            vocab_size=engine.model_config.vocab_size,
            chat=tokenizer is not None and tokenizer.has_chat_template,
            loaded=int(time.time()),
            system=system,
        )

    async def describe(self) -> Card:
        """Say what the model is."""
        return self._card

    async def stats(self) -> EndpointStats:
        """Say what its engine does."""
        stats = self._thread.counters()
        return EndpointStats(
            running=stats.running,
            waiting=stats.waiting,
            finished=stats.finished,
            prompt_tokens=stats.prompt_tokens,
            output_tokens=stats.output_tokens,
            cache_pages_used=stats.pages_held,
            cache_pages_total=stats.pages,
            prefix_hits=stats.prefix_hit_tokens,
            prefix_lookups=stats.prefix_queried_tokens,
        )

    async def compute(self, call: Call) -> Answers | Failure:
        """Answer a call, each prompt in its place."""
        try:
            prepared = await asyncio.to_thread(self._preparer.prepare, call)
            outputs = await self._all(prepared, call)
        except GemmarayError as error:
            return self._failure(error)
        return [
            PromptAnswer(
                output.prompt_tokens,
                output.results,
                prompt.text,
                self._preparer.pieces_of(output.results),
                prompt.fitted.truncated,
                prompt.fitted.windows,
            )
            for prompt, output in zip(prepared, outputs, strict=True)
        ]

    async def stream(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Answer a call token by token: what happened since the last time, again and again.

        The first event is a Begun. Each prompt ends with an Ended; a Failure ends everything.
        """
        try:
            prepared = await asyncio.to_thread(self._preparer.prepare, call)
        except GemmarayError as error:
            yield [self._failure(error)]
            return
        texts = tuple(prompt.text or "" for prompt in prepared) if call.with_text else None
        happened: _Happened = asyncio.Queue()
        happened.put_nowait(Begun(texts))
        pumps = [
            asyncio.ensure_future(self._pump(n, prompt, call, happened))
            for n, prompt in enumerate(prepared)
        ]
        try:
            left = len(pumps)
            while left:
                # Whatever has gathered meanwhile goes together: a message costs more than a token.
                events = [_event(await happened.get())]
                while not (isinstance(events[-1], Failure) or happened.empty()):
                    events.append(_event(happened.get_nowait()))
                left -= sum(isinstance(event, Ended) for event in events)
                yield events
                if isinstance(events[-1], Failure):
                    return
        finally:
            for pump in pumps:
                pump.cancel()

    async def tokenize(self, prompt: Prompt) -> Tokens | Failure:
        """Give the tokens of a prompt."""
        try:
            ids = await asyncio.to_thread(self._preparer.encode, prompt)
        except GemmarayError as error:
            return self._failure(error)
        pieces = self._preparer.pieces(ids)
        return Tokens(tuple(ids), tuple(pieces[n] for n in ids), self._card.max_model_len)

    async def detokenize(self, ids: Sequence[int]) -> str | Failure:
        """Give the text of tokens, those of control tokens included."""
        if max(ids, default=0) >= self._card.vocab_size:
            return Failure("request", f"token ids go from 0 to {self._card.vocab_size - 1}")
        try:
            return self._preparer.tokenizer.decode(ids, skip_special=False)
        except GemmarayError as error:
            return self._failure(error)

    def check_health(self) -> None:
        """Return if it can answer; Ray Serve asks every few seconds.

        Raises:
            EngineDeadError: its engine is dead, or hangs in a step.
        """
        if not self._thread.alive:
            raise EngineDeadError("the engine is dead")
        if (stalled := self._thread.stalled_s) > self._hang_s:
            raise EngineDeadError(f"the engine has been in one step for {stalled:.0f} s")

    def close(self) -> None:
        """End the engine."""
        self._thread.close()

    async def _all(self, prepared: Sequence[Prepared], call: Call) -> list[RequestOutput]:
        with _abortable() as futures:
            for prompt in prepared:
                future = self._thread.submit(
                    prompt.fitted.prompt, prompt.tasks, salt=call.salt, adapter=call.adapter
                )
                futures.append(asyncio.wrap_future(future))
            try:
                return list(await asyncio.gather(*futures))
            except GemmarayError as error:
                raise self._told(error, prepared) from None

    async def _pump(self, number: int, prompt: Prepared, call: Call, happened: _Happened) -> None:
        """Put what happens to one prompt into the queue."""
        ids, tasks = prompt.fitted.prompt, prompt.tasks
        stream = self._thread.stream(ids, tasks, salt=call.salt, adapter=call.adapter)
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    happened.put_nowait(self._event(number, item))
        except GemmarayError as error:
            happened.put_nowait(self._failure(self._told(error, [prompt])))
        except Exception as error:  # noqa: BLE001 - raised again by who waits for events
            happened.put_nowait(error)

    def _event(self, number: int, item: TokenDelta | RequestOutput) -> Event:
        if isinstance(item, RequestOutput):
            return Ended(number, item.prompt_tokens)
        return Added(number, item, self._preparer.pieces_in(item.logprobs or ()))

    def _told(self, error: GemmarayError, prompts: Sequence[Prepared]) -> GemmarayError:
        """Tell prompts that are too long apart from what else may be wrong with them."""
        longest = max((one.fitted.kept for one in prompts if one.fitted.windows == 1), default=0)
        if not isinstance(error, EngineDeadError) and longest >= self._card.max_model_len:
            return _TooLongError(str(error))
        return error

    def _failure(self, error: GemmarayError) -> Failure:
        if isinstance(error, EngineDeadError):
            return Failure("dead", str(error))
        return Failure(
            "request", str(error), TOO_LONG if isinstance(error, _TooLongError) else None
        )


class _TooLongError(GemmarayError):
    """A prompt leaves no room in the model's length."""


def _event(happened: Event | Exception) -> Event:
    if isinstance(happened, Exception):
        raise happened
    return happened


@contextmanager
def _abortable() -> Iterator[list[asyncio.Future[RequestOutput]]]:
    """Cancel what is left of some futures: their requests are aborted."""
    futures: list[asyncio.Future[RequestOutput]] = []
    try:
        yield futures
    finally:
        for future in futures:
            future.cancel()


def _build(config: EngineConfig) -> "Engine":
    from model import Engine  # noqa: PLC0415 - brings torch, which the front door can do without

    # A process whose ranks are dead and that can't be freed is of no use; Ray starts another one.
    engine = Engine(config, on_stuck=lambda _: os._exit(1))
    if engine.model_config.architecture == "causal_lm":
        engine.prepare_constraints()  # Python would stand still for a second at the first one
    return engine
