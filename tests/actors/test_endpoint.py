"""An endpoint by itself: answers in their places, failures as values, aborts."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from actors.calls import (
    Added,
    AskLabels,
    AskTags,
    Begun,
    Call,
    ChatPrompt,
    Ended,
    Event,
    Failure,
    TextPrompt,
    TokenPrompt,
)
from actors.endpoint import TOO_LONG, Endpoint
from model.outputs import GenerationOutput
from model.params import EngineConfig, SamplingParams
from model.tasks import Classify, Generate

MODEL = Path(__file__).resolve().parents[2] / "examples" / "demo-model" / "causal-lm"
PROMPTS = (TextPrompt("lib"), TokenPrompt((2, 5, 6)), TextPrompt("x "))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint(EngineConfig(checkpoint=str(MODEL), threads=1, kv_cache_bytes=64 << 20))
    yield made
    made.close()


def generate(tokens: int = 5, **changes: Any) -> Generate:
    changes = {"temperature": 1.0, "seed": 2, "ignore_eos": True, **changes}
    return Generate(SamplingParams(max_tokens=tokens, **changes))


async def events_of(endpoint: Endpoint, call: Call) -> list[Event]:
    return [event async for some in endpoint.stream(call) for event in some]


def test_streams_of_many_prompts_say_what_answers_say(endpoint: Endpoint) -> None:
    call = Call(PROMPTS, (generate(n=2),), with_text=True)
    answers = asyncio.run(endpoint.compute(call))
    assert not isinstance(answers, Failure)
    events = asyncio.run(events_of(endpoint, call))
    assert events[0] == Begun(tuple(answer.text or "" for answer in answers))
    assert answers[0].text == "lib"
    for number, answer in enumerate(answers):
        (output,) = answer.results
        assert isinstance(output, GenerationOutput)
        assert Ended(number, answer.prompt_tokens) in events
        for index, completion in enumerate(output.completions):
            deltas = [
                event.delta
                for event in events
                if isinstance(event, Added) and (event.prompt, event.delta.index) == (number, index)
            ]
            assert "".join(delta.text for delta in deltas) == completion.text


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (Call((TextPrompt("a\0"),), (generate(),)), None),
        (Call((TokenPrompt(()),), (generate(),)), None),
        (Call((TokenPrompt((10**7,)),), (generate(),)), None),
        (Call((*PROMPTS, TokenPrompt((5,) * 9000)), (generate(),)), TOO_LONG),
        (Call(PROMPTS, (Classify(),)), None),
        (Call((TokenPrompt((5,)),), (AskTags(),)), None),
        (Call(PROMPTS, (AskLabels(("7", "77")),)), None),
        (Call((ChatPrompt(({"role": "assistant", "content": "x"},)),), (generate(),)), None),
    ],
)
def test_what_can_not_be_answered_is_a_failure(
    endpoint: Endpoint, call: Call, code: str | None
) -> None:
    answer = asyncio.run(endpoint.compute(call))
    assert isinstance(answer, Failure)
    assert (answer.kind, answer.code) == ("request", code)
    last = asyncio.run(events_of(endpoint, call))[-1]
    assert isinstance(last, Failure)
    assert (last.kind, last.code) == ("request", code)


def test_nothing_comes_after_a_failure(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what other prompts have brought by the time that it is sent."""
    failure = Failure("request", "too long")

    async def pump(*arguments: Any) -> None:
        happened = arguments[-1]
        happened.put_nowait(failure)
        happened.put_nowait(Ended(1, 3))

    monkeypatch.setattr(endpoint, "_pump", pump)
    assert asyncio.run(events_of(endpoint, Call(PROMPTS, (generate(),))))[1:] == [failure]


def test_who_is_cancelled_is_aborted(endpoint: Endpoint) -> None:
    finished = endpoint._thread.counters().finished
    call = Call(PROMPTS, (generate(8000),))

    async def cancel() -> None:
        task = asyncio.ensure_future(endpoint.compute(call))
        await asyncio.sleep(0.3)
        task.cancel()
        async with aclosing(endpoint.stream(call)) as events:
            async for some in events:
                if any(isinstance(event, Added) for event in some):
                    break
        # Were one of them still there, this would not be the only one that is computed.
        steps = endpoint._thread.counters().steps
        assert not isinstance(await endpoint.compute(Call(PROMPTS[:1], (generate(3),))), Failure)
        await asyncio.sleep(0.1)
        assert endpoint._thread.counters().steps - steps < 20

    asyncio.run(cancel())
    assert endpoint._thread.counters().finished - finished == 1


def test_a_dead_engine_is_a_failure_of_its_own() -> None:
    made = Endpoint(EngineConfig(checkpoint=str(MODEL), threads=1, kv_cache_bytes=64 << 20))
    made.close()
    call = Call(PROMPTS, (generate(),))
    answer = asyncio.run(made.compute(call))
    assert isinstance(answer, Failure)
    assert answer.kind == "dead"
    last = asyncio.run(events_of(made, call))[-1]
    assert isinstance(last, Failure)
    assert last.kind == "dead"


def test_it_says_what_its_engine_holds_and_what_it_did(endpoint: Endpoint) -> None:
    before = asyncio.run(endpoint.stats())

    async def holds(requests: int) -> int:
        """Wait until it does, and give the pages that they hold."""
        while True:
            stats = await endpoint.stats()
            if stats.running + stats.waiting == requests:
                return stats.cache_pages_used
            await asyncio.sleep(0.01)

    async def watch() -> int:
        task = asyncio.ensure_future(endpoint.compute(Call(PROMPTS, (generate(8000),))))
        pages = await holds(len(PROMPTS))
        task.cancel()
        assert await holds(0) == 0
        assert not isinstance(await endpoint.compute(Call(PROMPTS, (generate(5),))), Failure)
        await holds(0)
        return pages

    pages = asyncio.run(asyncio.wait_for(watch(), 20))
    after = asyncio.run(endpoint.stats())
    assert (after.running, after.waiting, after.cache_pages_used) == (0, 0, 0)
    assert after.finished - before.finished == len(PROMPTS)
    assert after.output_tokens - before.output_tokens >= 5 * len(PROMPTS)
    assert 0 < pages <= after.cache_pages_total == before.cache_pages_total
    assert after.prefix_hits <= after.prefix_lookups
