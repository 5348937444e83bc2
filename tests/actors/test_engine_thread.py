import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import cast

import pytest

from actors.engine_thread import EngineThread
from model import Engine
from model.errors import CheckpointError, EngineDeadError, ParameterError, PromptError
from model.outputs import GenerationOutput, RequestOutput, TokenDelta

from .fake_engine import FakeEngine, generate

# Never reached: what is waited for this long fails the test.
SOON = 10.0
ENDLESS = 10**9


class Fixture:
    """A thread and the fake engine in it."""

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.thread = EngineThread(self._build)

    def _build(self) -> Engine:
        self.engines.append(FakeEngine())
        return cast("Engine", self.engines[0])

    @property
    def engine(self) -> FakeEngine:
        return self.engines[0]


@pytest.fixture
def fake() -> Iterator[Fixture]:
    made = Fixture()
    yield made
    made.thread.close()
    assert made.engine.closed


def tokens(output: RequestOutput) -> tuple[int, ...]:
    (result,) = output.results
    assert isinstance(result, GenerationOutput)
    return result.token_ids


def until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_requests_come_back_by_their_own_names(fake: Fixture) -> None:
    first = fake.thread.submit([10], generate(2), "mine")
    second = fake.thread.submit([20], generate(3))
    assert first.result(SOON).request_id == "mine"
    assert tokens(first.result(SOON)) == (10, 11)
    assert tokens(second.result(SOON)) == (20, 21, 22)


def test_many_threads_can_submit(fake: Fixture) -> None:
    def ask(n: int) -> RequestOutput:
        return fake.thread.submit([n + 100], generate(1 + n % 5)).result(SOON)

    with ThreadPoolExecutor(16) as pool:
        outputs = list(pool.map(ask, range(200)))
    for n, output in enumerate(outputs):
        assert tokens(output) == tuple(range(n + 100, n + 100 + 1 + n % 5))


def test_requests_run_together(fake: Fixture) -> None:
    futures = [fake.thread.submit([n + 100], generate(500)) for n in range(8)]
    wait(futures, SOON)
    assert fake.engine.most > 1


def test_a_refused_request_fails_alone(fake: Fixture) -> None:
    bad, good = fake.thread.submit([13], generate()), fake.thread.submit([1], generate())
    with pytest.raises(PromptError, match="unlucky"):
        bad.result(SOON)
    assert tokens(good.result(SOON)) == (1, 2, 3)


def test_a_name_in_use_is_refused_and_its_owner_goes_on(fake: Fixture) -> None:
    first = fake.thread.submit([1], generate(2000), "x")
    with pytest.raises(ParameterError, match="in use"):
        fake.thread.submit([2], generate(), "x").result(SOON)
    assert len(tokens(first.result(SOON))) == 2000
    assert fake.thread.submit([2], generate(), "x").result(SOON).request_id == "x"


def test_cancelling_a_future_aborts_the_request(fake: Fixture) -> None:
    future = fake.thread.submit([1], generate(ENDLESS), "x")
    until(lambda: fake.thread.counters().steps > 3)
    assert future.cancel()
    until(lambda: fake.engine.aborted == ["x"])
    with pytest.raises(CancelledError):
        future.result()
    assert tokens(fake.thread.submit([5], generate(1)).result(SOON)) == (5,)


def test_an_engine_that_breaks_fails_everybody(fake: Fixture) -> None:
    running = fake.thread.submit([1], generate(ENDLESS))
    breaking = fake.thread.submit([86], generate())
    for future in (running, breaking):
        with pytest.raises(EngineDeadError, match="RuntimeError: boom"):
            future.result(SOON)
    assert not fake.thread.alive
    with pytest.raises(EngineDeadError, match="boom"):
        fake.thread.submit([1], generate()).result(SOON)


def test_closing_fails_what_is_not_finished() -> None:
    fake = Fixture()
    futures = [fake.thread.submit([n], generate(ENDLESS)) for n in range(3)]
    fake.thread.close()
    fake.thread.close()
    futures.append(fake.thread.submit([1], generate()))
    for future in futures:
        with pytest.raises(EngineDeadError, match="closed"):
            future.result(SOON)
    assert fake.engine.closed


def test_nobody_waits_for_ever_when_it_closes_under_load() -> None:
    for _ in range(20):
        fake = Fixture()
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(fake.thread.submit, [n], generate(2)) for n in range(1, 12)]
            fake.thread.close()
        for submitted in asked:
            with suppress(EngineDeadError):
                submitted.result(SOON).result(SOON)


def test_an_engine_that_cannot_be_built_says_why() -> None:
    def build() -> Engine:
        raise CheckpointError("no such folder")

    with pytest.raises(CheckpointError, match="no such folder"):
        EngineThread(build)


def test_counters_are_those_of_the_last_step(fake: Fixture) -> None:
    assert fake.thread.counters().steps == 0
    fake.thread.submit([1], generate(7)).result(SOON)
    until(lambda: fake.thread.counters().steps == 7)


async def collected(fake: Fixture, count: int) -> list[object]:
    return [item async for item in fake.thread.stream([7], generate(count), "s")]


def test_a_stream_gives_tokens_and_the_output_last(fake: Fixture) -> None:
    items = asyncio.run(collected(fake, 4))
    *deltas, output = items
    assert [d.token_ids for d in deltas if isinstance(d, TokenDelta)] == [(7,), (8,), (9,), (10,)]
    assert isinstance(output, RequestOutput)
    assert tokens(output) == (7, 8, 9, 10)
    assert fake.engine.aborted == []


def test_leaving_a_stream_aborts_the_request(fake: Fixture) -> None:
    async def leave() -> None:
        stream = fake.thread.stream([7], generate(ENDLESS), "s")
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    until(lambda: fake.engine.aborted == ["s"])


def test_cancelling_who_waits_for_a_stream_aborts_the_request(fake: Fixture) -> None:
    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(collected(fake, ENDLESS), 0.1)

    asyncio.run(cancel())
    until(lambda: fake.engine.aborted == ["s"])


def test_a_stream_of_a_refused_request_raises(fake: Fixture) -> None:
    async def read() -> None:
        async for _ in fake.thread.stream([13], generate()):
            pass

    with pytest.raises(PromptError):
        asyncio.run(read())


def test_a_stream_ends_with_the_engine(fake: Fixture) -> None:
    async def read() -> None:
        async for _ in fake.thread.stream([86], generate()):
            pass

    with pytest.raises(EngineDeadError):
        asyncio.run(read())
