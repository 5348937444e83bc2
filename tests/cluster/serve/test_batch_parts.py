"""What batches are made of, without a server."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.serve.batches.answering import MOST_DEATHS, Answerer, Lane, Outcome
from cluster.serve.batches.checking import MOST_FINDINGS, check_lines
from cluster.serve.batches.desk import Desk
from cluster.serve.batches.endpoints import ENDPOINTS
from cluster.serve.batches.job import BatchJob, BatchRun
from cluster.serve.batches.results import check_results, result_lines
from cluster.serve.batches.worker import Worker
from cluster.serve.errors import EngineLostError, busy
from cluster.serve.protocol.batches import CreateBatch
from cluster.serve.settings import Limits
from cluster.serve.terms import Terms
from pipelines.errors import JobError, StorageError
from pipelines.storage import Store, open_store

from .batching import COMPLETIONS, Scripted, at_work, jsonl, line, shelf_at
from .conftest import until

GOOD = line("a", model="m", prompt="x")


def found(*lines: Any, most: int = 10) -> list[tuple[str, int | None]]:
    data = [item if isinstance(item, bytes | int) else json.dumps(item).encode() for item in lines]
    return [(item.code, item.line) for item in check_lines(data, COMPLETIONS, most).findings]


def test_good_lines_are_counted_and_nothing_is_found() -> None:
    lines = [json.dumps({**GOOD, "custom_id": f"{n}"}).encode() for n in range(10)]
    checked = check_lines(lines, COMPLETIONS, 10)
    assert (checked.total, checked.findings) == (10, ())


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b'{"custom_id": NaN}', "invalid_json_line"),
        (70 << 20, "invalid_json_line"),
        ({**GOOD, "method": "GET"}, "invalid_method"),
        ({**GOOD, "url": "/v1/embeddings"}, "mismatched_url"),
        ({**GOOD, "body": []}, "invalid_body"),
        ({**GOOD, "colour": 1}, "unknown_parameter"),
        ({**GOOD, "custom_id": 7}, "invalid_custom_id"),
        ({**GOOD, "custom_id": ""}, "invalid_custom_id"),
        ({**GOOD, "custom_id": "\ud800"}, "invalid_custom_id"),
        ({**GOOD, "custom_id": "x" * 513}, "invalid_custom_id"),
        (GOOD, "duplicate_custom_id"),
        ({key: GOOD[key] for key in ("custom_id", "method", "url")}, "missing_required_parameter"),
    ],
)
def test_what_is_wrong_with_a_line_is_found(bad: Any, code: str) -> None:
    assert (code, 2) in found(GOOD, bad)
    assert len(found(bad)) == (code != "duplicate_custom_id")


def test_files_are_bounded() -> None:
    assert found() == [("empty_file", None)]
    assert found(*[{**GOOD, "custom_id": f"{n}"} for n in range(4)], most=3) == [
        ("too_many_requests", None)
    ]
    assert len(found(*[b"{"] * 500, most=500)) == MOST_FINDINGS


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=8))
def test_ids_count_as_they_are(ids: list[str]) -> None:
    """Whatever stands in them: two are the same only if all their characters are."""
    codes = found(*[{**GOOD, "custom_id": custom_id} for custom_id in ids], most=100)
    twice = sum(count - 1 for count in Counter(ids).values())
    assert len([code for code, _ in codes if code == "duplicate_custom_id"]) == twice


def answered(model: Scripted, *bodies: dict[str, Any], most: int = 8) -> list[Outcome]:
    """Have bodies answered at the same time."""

    async def main() -> list[Outcome]:
        answerer = Answerer({"m": Lane(model, most)}, first_pause_s=0.001)
        terms = Terms(Limits(), b"salt")
        lines = (answerer.answer(ENDPOINTS[COMPLETIONS], body, terms, 1) for body in bodies)
        return list(await asyncio.gather(*lines))

    return asyncio.run(main())


def body(prompt: str, **changes: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": prompt, **changes}


def raising(errors: dict[str, Sequence[BaseException]]) -> Any:
    """Give what raises some errors for a prompt before it lets it through."""
    left: dict[str, Iterator[BaseException]] = {text: iter(some) for text, some in errors.items()}

    def before(text: str) -> None:
        if (error := next(left.get(text, iter(())), None)) is not None:
            raise error

    return before


def lost() -> EngineLostError:
    return EngineLostError("gone", held=True)


def test_full_queues_and_lost_engines_are_waited_out() -> None:
    errors = [
        *[busy()] * 12,
        EngineLostError("none", held=False),
        *[lost()] * 2,
        KeyError("?"),
        asyncio.CancelledError(),
    ]
    model = Scripted(raising({"a": errors}))
    outcomes = answered(model, body("a"), body("b"))
    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert model.calls.count("a") == len(errors) + 1
    assert model.calls.count("b") == 1


def test_a_line_that_ends_every_engine_is_given_up_and_the_last_tries_are_its_own() -> None:
    """Nothing else is on its way then, so that no other line is blamed."""
    beside: list[int] = []

    async def before(text: str) -> None:
        if text == "poison":
            beside.append(model.ongoing)
            raise lost()
        await asyncio.sleep(0.005)

    model = Scripted(before)
    outcomes = answered(model, body("poison"), *[body(f"{n}") for n in range(40)], most=4)
    assert [outcome.status for outcome in outcomes] == [500, *[200] * 40]
    assert outcomes[0].error_class == "request_ended_engine"
    assert len(beside) == MOST_DEATHS
    assert set(beside[2:]) == {1}


def test_a_line_may_name_its_own_deadline() -> None:
    model = Scripted(lambda _: asyncio.sleep(60))
    (outcome,) = answered(model, body("x", timeout=0.01))
    assert (outcome.status, outcome.error_class) == (408, "deadline_exceeded")
    assert model.ongoing == 0


def test_lines_wait_for_a_place() -> None:
    model = Scripted(lambda _: asyncio.sleep(0.001))
    assert len(answered(model, *[body(f"{n}") for n in range(30)], most=3)) == 30
    assert model.most == 3


def ran(store: Store, path: Path, model: Scripted) -> BatchRun:
    async def main() -> BatchRun:
        job = BatchJob.begin(store, str(path), COMPLETIONS, Terms(Limits(), b""))
        run = BatchRun(job, Answerer({"m": Lane(model, 500)}), lambda _: None)
        await run.run()
        return run

    return asyncio.run(main())


def test_the_results_are_proven_before_they_are_given(tmp_path: Path) -> None:
    """A part that went lost, or belongs to another line, is noticed."""
    source, output = tmp_path / "in.jsonl", tmp_path / "job"
    lines = [line(f"{n}", model="m", prompt=f"{n}") for n in range(130)]
    source.write_bytes(jsonl(lines))
    store = open_store(str(output))
    assert ran(store, source, Scripted()).done == (130, 0)
    check_results(str(output))
    given = [json.loads(item) for item in result_lines(str(output), failed=False)]
    assert [item["custom_id"] for item in given] == [f"{n}" for n in range(130)]
    assert not list(result_lines(str(output), failed=True))
    _, second, third = sorted(output.glob("*.parquet"))
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(JobError, match="missing"):
        check_results(str(output))
    second.write_bytes(third.read_bytes())
    with pytest.raises(JobError, match="not whole"):
        check_results(str(output))
    second.write_bytes(kept)
    check_results(str(output))


def test_the_same_job_run_again_computes_nothing(tmp_path: Path) -> None:
    source, store = tmp_path / "in.jsonl", open_store(str(tmp_path / "job"))
    source.write_bytes(jsonl([line("a", model="m", prompt="x")]))
    models = [Scripted(), Scripted()]
    assert [ran(store, source, model).done for model in models] == [(1, 0), (1, 0)]
    assert [len(model.calls) for model in models] == [1, 0]


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    worker = Worker(shelf_at(blocked / "b"), Answerer({}), Limits())
    with pytest.raises(StorageError, match="can't be written"):
        worker.check()


def test_a_batch_that_never_gets_on_is_given_up(tmp_path: Path) -> None:
    """Here its job's folder is spoilt; a process that dies each time counts the same."""
    shelf = shelf_at(tmp_path)
    desk = Desk(shelf, Limits())
    file = desk.upload("me", "in.jsonl", io.BytesIO(jsonl([GOOD])))
    batch = desk.create(
        "me",
        CreateBatch(input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h"),
    )
    order = shelf.taken(*shelf.waiting())
    assert order is not None
    shelf.job(order).put_if_absent("_job/plan.json", b"no plan")
    worker = Worker(shelf, Answerer({"m": Lane(Scripted(), 1)}), Limits(), poll_s=0.001)

    with at_work(worker):
        until(lambda: desk.batch("me", batch.id).status == "failed")
    errors = desk.batch("me", batch.id).errors
    assert errors is not None
    assert [error.code for error in errors.data] == ["server_error"]


def test_a_batch_whose_maker_died_half_way_is_seen_by_its_owner(tmp_path: Path) -> None:
    """It stands in the queue, and nowhere else yet."""
    shelf = shelf_at(tmp_path)
    desk = Desk(shelf, Limits())
    file = desk.upload("me", "in.jsonl", io.BytesIO(jsonl([GOOD])))
    made = CreateBatch(input_file_id=file.id, endpoint=COMPLETIONS, completion_window="1h")
    batch = desk.create("me", made)
    (record,) = tmp_path.glob("owners/*/batches/*.json")
    record.unlink()
    assert shelf.taken(*shelf.waiting())
    assert desk.batch("me", batch.id) == batch
    until(record.exists)
