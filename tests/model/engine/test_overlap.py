"""With overlap a step is launched before the one before it is settled, and nobody can tell."""

import itertools
import random
from typing import Any

import pytest

from model import Classify, Embed, Generate, ParameterError
from model.engine.executor import InProcess
from model.engine.flight import Flight
from model.tasks import Task
from tests.model.helpers import random_ids

from .answers import (
    MIXED,
    ON_DEVICE,
    ON_HOST,
    Requests,
    assert_alike,
    assert_same,
    params,
    plain,
    requests_of,
    run,
)
from .conftest import MakeEngine


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is launched and settled, in order."""
    seen: list[str] = []
    numbers: dict[int, int] = {}
    launch, settle = InProcess.launch, Flight.settle

    def launched(self: InProcess, *args: Any) -> Any:
        seen.append(f"launch {len(numbers)}")
        return launch(self, *args)

    def init(self: Flight, *args: Any) -> None:
        build(self, *args)
        numbers[id(self)] = len(numbers)
        kept.append(self)

    def settled(self: Flight) -> int:
        seen.append(f"settle {numbers[id(self)]}")
        return settle(self)

    build, kept = Flight.__init__, []
    monkeypatch.setattr(InProcess, "launch", launched)
    monkeypatch.setattr(Flight, "__init__", init)
    monkeypatch.setattr(Flight, "settle", settled)
    return seen


class TestOrder:
    def test_the_next_step_is_launched_before_a_step_is_settled(
        self, make: MakeEngine, events: list[str]
    ) -> None:
        make(overlap=True).generate([[5, 6, 7]], params(max_tokens=4))
        assert events == [
            *("launch 0", "launch 1", "settle 0", "launch 2", "settle 1", "launch 3", "settle 2"),
            "settle 3",
        ]

    @pytest.mark.parametrize("overlap", [None, False])
    def test_a_cpu_has_nothing_to_gain(
        self, make: MakeEngine, events: list[str], overlap: bool | None
    ) -> None:
        make(overlap=overlap).generate([[5, 6, 7]], params(max_tokens=3))
        assert events == [f"{what} {n}" for n in range(3) for what in ("launch", "settle")]

    @pytest.mark.parametrize("name", ON_HOST)
    def test_what_the_host_must_see_is_waited_for(
        self, make: MakeEngine, events: list[str], name: str
    ) -> None:
        make(overlap=True).generate([[5, 6, 7]], params(**ON_HOST[name] | {"max_tokens": 3}))
        assert events == [f"{what} {n}" for n in range(3) for what in ("launch", "settle")]

    def test_a_step_on_its_way_is_settled_before_one_that_is_waited_for(
        self, make: MakeEngine, events: list[str]
    ) -> None:
        engine = make(overlap=True)
        engine.add_request([5, 6, 7], [Generate(params(max_tokens=3))])
        assert engine.step() == []
        engine.add_request([8, 9], [Generate(params(max_tokens=1, top_p=0.5, temperature=1.0))])
        engine.step()
        assert events == ["launch 0", "launch 1", "settle 0", "settle 1"]

    def test_no_step_is_launched_in_vain_where_the_length_ends_an_answer(
        self, make: MakeEngine
    ) -> None:
        steps = []
        for overlap in (False, True):
            engine = make(overlap=overlap, max_model_len=20)
            engine.generate([random_ids(9)], params(max_tokens=6))
            engine.generate([random_ids(15, seed=1)], params(max_tokens=99))
            steps.append((engine.stats.steps, engine.stats.output_tokens))
        assert steps == [(11, 11)] * 2


class TestAnswers:
    @pytest.mark.parametrize(
        "requests",
        [requests_of(ON_DEVICE), requests_of(ON_DEVICE, stem=30), MIXED],
        ids=["on the device", "with a prefix", "every kind"],
    )
    @pytest.mark.parametrize("every", [1, 3])
    def test_are_those_without_it(self, make: MakeEngine, requests: Requests, every: int) -> None:
        expected = run(make(overlap=False), requests, every=every)
        assert_same(run(make(overlap=True), requests, every=every), expected)

    def test_with_draws_that_the_host_must_see_among_them(
        self, make: MakeEngine, events: list[str]
    ) -> None:
        requests = MIXED | requests_of(ON_HOST)
        expected = run(make(overlap=False), requests)
        events.clear()
        order = random.Random(0).sample(sorted(requests), len(requests))
        assert_same(run(make(overlap=True), requests, every=4, order=order), expected)
        launches = [event.startswith("launch") for event in events]
        pairs = set(itertools.pairwise(launches))
        assert {(True, True), (False, False)} <= pairs, "some steps overlap, others are waited for"

    @pytest.mark.parametrize(
        "settings",
        [{"kv_cache_bytes": 3 << 16}, {"max_sequences": 3}, {"schedule": "fcfs"}],
        ids=str,
    )
    def test_with_little_room(self, make: MakeEngine, settings: dict[str, Any]) -> None:
        requests = requests_of(ON_DEVICE, stem=9)
        expected = run(make(overlap=False), requests)
        assert_same(run(make(overlap=True, **settings), requests), expected)

    def test_a_sequence_that_a_step_has_no_room_for(self, make: MakeEngine) -> None:
        requests: Requests = {
            "wide": (random_ids(16), [Generate(params(max_tokens=6, n=16, temperature=1, seed=1))]),
            "last": (random_ids(1, seed=1), [Generate(params(max_tokens=9))]),
        }
        expected = run(make(overlap=False), requests)
        # The last one draws while the wide one forks, which then fills the steps up.
        assert_same(run(make(overlap=True, max_batch_tokens=16), requests), expected)

    @pytest.mark.parametrize("checkpoint", ["classifier", "tagger"])
    def test_of_the_heads(self, make: MakeEngine, checkpoint: str) -> None:
        prompts = [random_ids(length, seed=length) for length in (1, 9, 40, 75, 12)]
        tasks: list[Task] = [Classify()] if checkpoint == "classifier" else []
        requests: Requests = {str(n): (p, [*tasks, Embed("mean")]) for n, p in enumerate(prompts)}
        expected = run(make(checkpoint, overlap=False), requests)
        assert_same(run(make(checkpoint, overlap=True), requests), expected)

    def test_of_texts_tags_and_stop_strings(self, make: MakeEngine) -> None:
        waiting, carried = (make("text-lm", overlap=on) for on in (False, True))
        free = waiting.generate(["Hello"], params(max_tokens=30))[0].text
        middle = len(free) // 2
        every = [
            params(max_tokens=30, stop=[free[middle : middle + 3]]),
            params(max_tokens=30, stop=[free[-4:]], temperature=1.0, seed=1, n=2),
            params(max_tokens=20),
        ]
        expected = waiting.generate(["Hello"] * 3, every)
        assert expected[0].finish_reason == "stop"
        assert_alike(plain(carried.generate(["Hello"] * 3, every)), plain(expected), "texts")
        tagged = [
            make("text-tagger", overlap=on).tag_tokens(["Anna lives in Paris", "and Bo"])
            for on in (False, True)
        ]
        assert_alike(plain(tagged[1]), plain(tagged[0]), "tags")


class TestEndsAndAborts:
    def test_a_token_drawn_after_the_end_is_dropped(self, make: MakeEngine) -> None:
        engine = make(overlap=True)
        prompt = random_ids(9)
        free = engine.generate([prompt], params(max_tokens=10))[0].token_ids
        steps, tokens = engine.stats.steps, engine.stats.output_tokens
        ends = params(max_tokens=10, stop_token_ids=[free[4]])
        stopped = engine.generate([prompt], ends)[0]
        drawn = free.index(free[4]) + 1
        assert stopped.token_ids == free[:drawn]
        assert stopped.finish_reason == "stop"
        assert engine.stats.output_tokens - tokens == drawn
        assert engine.stats.steps - steps == drawn + 1, "one was on its way already"
        # It still is, for nobody; the engine counts as idle, and takes no notice of it.
        assert not engine.has_work
        assert engine.generate([prompt], ends)[0].token_ids == stopped.token_ids
        assert engine.stats.finished == 3

    @pytest.mark.parametrize("after", range(1, 9))
    def test_aborts_with_a_step_on_its_way(self, make: MakeEngine, after: int) -> None:
        requests = requests_of(ON_DEVICE, stem=10) | {"gone": (random_ids(40), MIXED["all"][1])}
        expected = run(make(overlap=False), requests)
        engine = make(overlap=True)
        for name, request in requests.items():
            engine.add_request(*request, request_id=name)
        outputs = {}
        for _ in range(after):
            outputs |= {u.request_id: u.output for u in engine.step() if u.output}
        gone = [name for name in ("gone", "seeded", "three answers", "soon") if name not in outputs]
        for name in gone:
            assert engine.abort(name)
            engine.check_integrity()
        # The name is free at once, also for another prompt.
        changed = {"gone": (random_ids(7, seed=98), [Generate(params(max_tokens=4))])}
        outputs |= run(engine, changed)
        assert outputs.keys() == (requests.keys() - set(gone)) | {"gone"}
        expected |= run(make(overlap=False), changed)
        assert_same(outputs, {name: expected[name] for name in outputs})

    def test_all_are_aborted(self, make: MakeEngine) -> None:
        engine = make(overlap=True)
        engine.add_request([5, 6, 7], [Generate(params(max_tokens=9))], request_id="x")
        engine.step()
        engine.step()
        assert engine.has_work
        assert engine.abort("x")
        assert not engine.has_work
        assert engine.step() == []
        assert engine.stats.finished == 0

    def test_closed_with_a_step_on_its_way(self, make: MakeEngine) -> None:
        engine = make(overlap=True)
        engine.add_request([5, 6, 7], [Generate(params(max_tokens=9))])
        engine.step()
        engine.close()
        engine.close()

    def test_an_interrupted_launch_leaves_a_working_engine(
        self, make: MakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = make(overlap=True)
        prompts = [random_ids(9), random_ids(20, seed=1)]
        expected = [out.token_ids for out in engine.generate(prompts, params(max_tokens=8))]
        launch, calls = InProcess.launch, []

        def interrupted(self: InProcess, *args: Any) -> Any:
            calls.append(self)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return launch(self, *args)

        monkeypatch.setattr(InProcess, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(prompts, params(max_tokens=8))
        assert not engine.has_work
        engine.check_integrity()
        again = engine.generate(prompts, params(max_tokens=8))
        assert [out.token_ids for out in again] == expected

    def test_ranks_are_refused_what_only_one_can_do(self, make: MakeEngine) -> None:
        with pytest.raises(ParameterError, match="overlap needs a single rank"):
            make(overlap=True, tensor_parallel=2)


def test_what_a_first_step_did_is_said_by_the_second(make: MakeEngine) -> None:
    engine = make(overlap=True)
    engine.add_request([5, 6, 7], [Generate(params(max_tokens=1))], request_id="x")
    assert engine.step() == []
    assert engine.has_work
    (update,) = engine.step()
    assert update.output is not None
    assert not engine.has_work
