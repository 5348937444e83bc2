import asyncio
from pathlib import Path

import psutil
import pytest

from actors.engine_thread import EngineThread
from model import Engine, EngineConfig, EngineDeadError, SamplingParams
from model.outputs import GenerationOutput, RequestOutput, TokenDelta
from model.tasks import Embed, Generate, Task

MODEL = Path(__file__).resolve().parents[2] / "examples" / "demo-model" / "causal-lm"
CONFIG = EngineConfig(checkpoint=str(MODEL), threads=1)
PROMPTS = [f"Name the section of this Debian package.\nlib{n}" for n in range(12)]
TASKS: list[Task] = [Generate(SamplingParams(max_tokens=6, temperature=1.0, seed=5)), Embed()]


def generated(output: RequestOutput) -> GenerationOutput:
    result = output.results[0]
    assert isinstance(result, GenerationOutput)
    return result


@pytest.mark.parametrize("overlap", [False, True])
def test_a_thread_gives_what_the_engine_gives(overlap: bool) -> None:
    with Engine(CONFIG) as engine:
        wanted = engine.generate(PROMPTS, SamplingParams(max_tokens=6, temperature=1.0, seed=5))
    config = CONFIG.model_copy(update={"overlap": overlap})
    thread = EngineThread(lambda: Engine(config))

    async def stream(prompt: str) -> tuple[list[int], str, RequestOutput]:
        ids: list[int] = []
        text = ""
        async for item in thread.stream(prompt, TASKS):
            if isinstance(item, TokenDelta):
                ids += item.token_ids
                text += item.text
            else:
                return ids, text, item
        raise AssertionError("the output never came")

    async def both() -> list[tuple[list[int], str, RequestOutput]]:
        return list(await asyncio.gather(*map(stream, PROMPTS)))

    futures = [thread.submit(prompt, TASKS) for prompt in PROMPTS]
    streamed = asyncio.run(both())
    finished = [future.result(60) for future in futures]
    thread.close()
    for expected, output, (ids, text, last) in zip(wanted, finished, streamed, strict=True):
        assert generated(output).token_ids == expected.token_ids
        assert generated(last).token_ids == tuple(ids) == expected.token_ids
        assert generated(last).text == text == expected.text


@pytest.mark.slow
def test_a_rank_that_stops_fails_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.engine.watchdog.SILENCE_S", 3.0)
    thread = EngineThread(lambda: Engine(CONFIG.model_copy(update={"tensor_parallel": 2})))
    (rank,) = psutil.Process().children()
    endless: list[Task] = [Generate(SamplingParams(max_tokens=1000, ignore_eos=True))]
    future = thread.submit(PROMPTS[0], endless)
    rank.suspend()
    with pytest.raises(EngineDeadError, match="rank 1 gave no sign of life"):
        future.result(15)
    assert not rank.is_running()
    with pytest.raises(EngineDeadError):
        thread.submit(PROMPTS[0], endless).result(5)
    thread.close()
