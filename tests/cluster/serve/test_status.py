"""GET /status: what an engine holds, and what is known of replicas that don't answer soon."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from actors.endpoint import Endpoint
from cluster.serve.backend import LocalBackend
from cluster.serve.latest import FRESH_S, Latest

from .conftest import Served, Serving, until


def test_an_engine_says_what_it_does(endpoints: Mapping[str, Endpoint], serving: Serving) -> None:
    served = serving({"demo": LocalBackend(endpoints["demo"], 8)})
    (before,) = model(served)["engines"]
    asked = {"model": "demo", "prompt": "lib", "max_tokens": 3000, "ignore_eos": True}
    thread = threading.Thread(target=served.post, args=("/v1/completions", asked))
    thread.start()
    until(lambda: model(served)["engines"][0]["running"] == 1)
    busy = model(served)
    assert (busy["id"], busy["architecture"]) == ("demo", "causal_lm")
    assert (busy["replicas"], busy["in_flight"]) == ({"running": 1}, 1)
    assert 0 < busy["engines"][0]["cache_pages_used"] <= busy["engines"][0]["cache_pages_total"]
    thread.join()
    (after,) = model(served)["engines"]
    assert after["output_tokens"] - before["output_tokens"] == 3000
    assert (after["running"], after["waiting"], after["replica"]) == (0, 0, "local")


def model(served: Served) -> dict[str, Any]:
    (found,) = served.get("/status").json()["models"]
    assert isinstance(found, dict)
    return found


def test_whoever_does_not_answer_soon_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.serve.latest.PATIENCE_S", 0.05)

    async def run() -> None:
        answers: asyncio.Queue[int | Exception] = asyncio.Queue()
        asked = 0

        async def ask() -> int:
            nonlocal asked
            asked += 1
            answer = await answers.get()
            if isinstance(answer, Exception):
                raise answer
            return answer

        latest = Latest(ask, 0)
        assert await asyncio.gather(latest.get(), latest.get()) == [0, 0]
        assert await latest.get() == 0
        assert asked == 1
        answers.put_nowait(7)
        assert await latest.get() == 7
        assert (await latest.get(), asked) == (7, 1)  # fresh enough
        monkeypatch.setattr("cluster.serve.latest.FRESH_S", 0.0)
        answers.put_nowait(ValueError("gone"))
        assert await latest.get() == 7
        answers.put_nowait(8)
        assert (await latest.get(), asked) == (8, 3)

    assert FRESH_S > 0
    asyncio.run(run())
