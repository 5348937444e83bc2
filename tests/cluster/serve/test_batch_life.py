"""What becomes of files and batches, whatever happens to them, with a model that plays along."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cluster.serve.access import Keys, new_key
from cluster.serve.settings import Limits
from tests.conftest import Bucket

from .batching import (
    COMPLETIONS,
    POLL_S,
    Scripted,
    a_worker,
    at_work,
    batches_on,
    created,
    finished,
    jsonl,
    line,
    results,
    shelf_at,
)
from .conftest import Served, Serving, until


@pytest.fixture
def scripted(serving: Serving, tmp_path: Path) -> Iterator[Any]:
    """Give a function that serves a scripted model with batches."""
    with contextlib.ExitStack() as stack:

        def serve(model: Scripted, keys: Keys | None = None, **options: Any) -> Served:
            limits = options.pop("limits", Limits())
            url = options.pop("url", tmp_path / "shelf")
            worker = a_worker(shelf_at(url), {"m": model}, limits, **options)
            stack.enter_context(at_work(worker))
            batches = batches_on(shelf_at(url), limits, worker)
            return serving({"m": model}, keys, limits, batches)

        yield serve


def many(count: int) -> list[dict[str, Any]]:
    return [line(f"id-{n}", model="m", prompt=f"{n}") for n in range(count)]


def ids_of(*files: list[Any]) -> list[int]:
    """Give the numbers of all lines, sorted: each must be there once."""
    return sorted(int(item["custom_id"].removeprefix("id-")) for file in files for item in file)


def test_a_key_sees_its_own_files_and_batches_alone(scripted: Any) -> None:
    model, pairs = Scripted(), [new_key("alice"), new_key("bob"), new_key("alice")]
    names = {bytes.fromhex(text.partition("sha256:")[2]): text.split()[0] for _, text in pairs}
    served = scripted(model, Keys(names))
    alice, bob, renewed = (served.client(key) for key, _ in pairs)
    batch = finished(alice, created(alice, many(1)).id)
    for ask in (
        lambda: bob.batches.retrieve(batch.id),
        lambda: bob.batches.cancel(batch.id),
        lambda: bob.files.retrieve(batch.input_file_id),
        lambda: bob.files.content(batch.output_file_id),
        lambda: bob.files.delete(batch.output_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.BadRequestError, match="no such file"):
        bob.batches.create(
            input_file_id=batch.input_file_id, endpoint=COMPLETIONS, completion_window="24h"
        )
    assert not list(bob.files.list())
    assert not list(bob.batches.list())
    assert results(renewed, batch) == results(alice, batch)
    finished(bob, created(bob, many(1)).id)
    assert len(model.salts) == 2
    for path in ("files", "batches", f"files/{batch.output_file_id}/content"):
        assert served.get(f"/v1/{path}").status_code == 401


def test_a_cancelled_batch_gives_what_is_done(scripted: Any) -> None:
    """Lines on their way are called back; every line is in one of the files, once."""

    def before(text: str) -> Any:
        return None if int(text) % 2 == 0 else _forever()

    client = scripted(Scripted(before), most=200).client()
    batch = created(client, many(150))
    until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 75)
    assert client.batches.retrieve(batch.id).status == "in_progress"
    with pytest.raises(openai.ConflictError, match="reads this file"):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    batch = finished(client, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    assert batch.request_counts.model_dump() == {"total": 150, "completed": 75, "failed": 75}
    answers, errors = results(client, batch)
    assert ids_of(answers) == list(range(0, 150, 2))
    assert ids_of(errors) == list(range(1, 150, 2))
    assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
    assert {error["response"] for error in errors} == {None}
    with pytest.raises(openai.ConflictError, match="it is cancelled"):
        client.batches.cancel(batch.id)
    assert client.files.delete(batch.input_file_id).deleted


def test_a_batch_is_cancelled_though_it_waits_for_another(scripted: Any) -> None:
    client = scripted(Scripted(lambda _: _forever())).client()
    first, second = (created(client, many(3)).id for _ in range(2))
    until(lambda: client.batches.retrieve(first).status == "in_progress")
    assert client.batches.retrieve(second).status == "validating"
    client.batches.cancel(second)
    batch = finished(client, second)
    assert batch.status == "cancelled"
    assert ids_of(results(client, batch)[1]) == [0, 1, 2]
    assert client.batches.retrieve(first).status == "in_progress"


async def _forever() -> None:
    await asyncio.sleep(3600)


def test_a_batch_that_takes_too_long_expires(scripted: Any) -> None:
    clock = [time.time()]
    model = Scripted(lambda text: _forever() if text == "1" else None)
    client = scripted(model, now=lambda: clock[0]).client()
    batch = created(client, many(3))
    until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 2)
    clock[0] += 24 * 3600 + 5
    batch = finished(client, batch.id)
    assert batch.status == "expired"
    assert batch.expired_at >= batch.expires_at
    answers, (error,) = results(client, batch)
    assert ids_of(answers) == [0, 2]
    assert error["error"]["code"] == "batch_expired"


def test_batches_wait_for_each_other_and_leave_room_for_others(scripted: Any) -> None:
    model = Scripted(lambda _: asyncio.sleep(0.01))
    client = scripted(model, most=5).client()
    made = [created(client, many(40)).id for _ in range(2)]
    ended = [finished(client, batch_id) for batch_id in made]
    assert ended[0].completed_at <= ended[1].in_progress_at
    assert model.most == 5


def test_another_worker_goes_on_where_one_ended(serving: Serving, tmp_path: Path) -> None:
    """Units that are committed are not computed again, others are; each line is there once."""
    shelf = shelf_at(tmp_path)
    served = serving({}, batches=batches_on(shelf))
    client = served.client()
    first = Scripted(lambda text: _forever() if int(text) >= 100 else None)
    batch = created(client, many(200))
    with at_work(a_worker(shelf, {"m": first}, most=300)):
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 100)
    assert not shelf.batch(_order(shelf, batch.id)).output_file_id
    second = Scripted()
    with at_work(a_worker(shelf, {"m": second}, most=300)):
        batch = finished(client, batch.id)
    assert batch.status == "completed"
    assert len(first.calls) == 200
    assert sorted(map(int, second.calls)) == list(range(64, 200))
    answers, errors = results(client, batch)
    assert not errors
    assert ids_of(answers) == list(range(200))
    texts = [answer["response"]["body"]["choices"][0]["text"] for answer in answers]
    assert texts == [f"{n}" for n in range(200)]


def _order(shelf: Any, batch_id: str) -> Any:
    (entry,) = shelf.waiting()
    assert entry.batch_id == batch_id
    return shelf.order(entry.owner, batch_id)


def test_nothing_of_a_batch_stays_but_what_its_owner_can_delete(
    scripted: Any, tmp_path: Path
) -> None:
    """Prompts and answers are gone with the files."""
    client = scripted(Scripted()).client()
    secret = "a prompt of somebody's"
    batch = finished(client, created(client, [line("a", model="m", prompt=secret)]).id)
    until(lambda: not shelf_at(tmp_path / "shelf").waiting())
    for file_id in (batch.input_file_id, batch.output_file_id):
        client.files.delete(file_id)
    kept = [path for path in (tmp_path / "shelf").rglob("*") if path.is_file()]
    assert kept
    assert not any(path.suffix == ".parquet" or secret in path.read_text() for path in kept)
    assert client.batches.retrieve(batch.id).status == "completed"


def test_batches_lie_on_s3_as_well(scripted: Any, s3: Bucket) -> None:
    client = scripted(Scripted(), url=s3.url("some/prefix")).client()
    batch = finished(client, created(client, many(70)).id)
    answers, _ = results(client, batch)
    assert ids_of(answers) == list(range(70))
    assert client.files.delete(batch.input_file_id).deleted
    assert {file.purpose for file in client.files.list()} == {"batch_output"}


def test_what_does_not_fit_is_refused(scripted: Any) -> None:
    limits = Limits(
        max_body_bytes=1024, max_file_bytes=20_000, max_batch_lines=5, max_open_batches=1
    )
    served = scripted(Scripted(lambda _: _forever()), limits=limits)
    client = served.client()
    with pytest.raises(openai.APIStatusError) as refusal:
        client.files.create(file=("x", b"x" * 120_000), purpose="batch")
    assert refusal.value.status_code == 413
    many_lines = finished(client, created(client, many(6)).id)
    assert [error.code for error in many_lines.errors.data] == ["too_many_requests"]
    until(lambda: not created_fails(client))
    with pytest.raises(openai.RateLimitError, match="have not ended"):
        created(client, many(1))


def created_fails(client: openai.OpenAI) -> bool:
    """Whether a batch can't be made, as the one before it is still being put away."""
    try:
        created(client, many(2))
    except openai.RateLimitError:
        return True
    return False


def test_a_line_may_be_as_large_as_a_request(scripted: Any) -> None:
    client = scripted(Scripted(), limits=Limits(max_body_bytes=1024)).client()
    batch = created(client, [line("a", model="m", prompt="x" * 1100), *many(1)])
    answers, (error,) = results(client, finished(client, batch.id))
    assert len(answers) == 1
    assert error["response"]["status_code"] == 413


def test_uploads_that_are_none_are_refused(scripted: Any) -> None:
    served = scripted(Scripted())
    url = f"{served.url}/v1/files"
    file = {"file": ("a.jsonl", b"{}")}
    for options in (
        {"files": file},
        {"files": file, "data": {"purpose": "fine-tune"}},
        {"files": file, "data": {"purpose": "batch", "expires_after[seconds]": "9"}},
        {"files": file, "data": {"purpose": ["batch", "batch"]}},
        {"data": {"purpose": "batch", "file": "text"}},
        {"json": {"purpose": "batch"}},
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ):
        reply = httpx.post(url, **options)  # type: ignore[arg-type]
        assert reply.status_code == 400, options
        assert reply.json()["error"]["message"]
    create = {"endpoint": COMPLETIONS, "completion_window": "24h"}
    for body, param in (
        ({**create, "input_file_id": "../../x"}, "input_file_id"),
        ({**create, "input_file_id": "file-1", "colour": 1}, "colour"),
        ({**create, "input_file_id": "file-1", "completion_window": "1d"}, "completion_window"),
        ({**create, "input_file_id": "file-1", "endpoint": "/v1/responses"}, "endpoint"),
        ({**create, "input_file_id": "x", "output_expires_after": {}}, "output_expires_after"),
        ({**create, "input_file_id": "x", "metadata": {"a": 1}}, "metadata.a"),
    ):
        reply = served.post("/v1/batches", body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    for path in ("files?limit=0", "batches?limit=101", "batches?colour=1", "files?order=up"):
        assert served.get(f"/v1/{path}").status_code == 400, path
    for path in ("files/..%2f..%2fx", "files/x/content", "batches/batch_1"):
        assert served.get(f"/v1/{path}").status_code == 404, path


def test_a_server_without_a_folder_for_them_says_so(serving: Serving) -> None:
    served = serving({})
    reply = served.get("/v1/batches")
    assert reply.status_code == 404
    assert "--batch-dir" in reply.json()["error"]["message"]
    with pytest.raises(openai.APIStatusError, match="larger than"):
        served.client().files.create(file=("x", b"x" * (5 << 20)), purpose="batch")


def test_lines_and_batches_are_counted(scripted: Any) -> None:
    served = scripted(Scripted())
    finished(served.client(), created(served.client(), [*many(2), line("a", model="?")]).id)
    until(lambda: "gemmaray_batches_open 0.0" in served.get("/metrics").text, 10 * POLL_S + 5)
    text = served.get("/metrics").text
    assert 'gemmaray_batch_lines_total{result="completed"} 2.0' in text
    assert 'gemmaray_batch_lines_total{result="failed"} 1.0' in text
    assert 'gemmaray_batches_ended_total{status="completed"} 1.0' in text


def test_the_file_that_a_batch_reads_may_end_without_a_newline(scripted: Any) -> None:
    client = scripted(Scripted()).client()
    file = client.files.create(file=jsonl(many(2)).rstrip(), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h"
    )
    answers, _ = results(client, finished(client, batch.id))
    assert ids_of(answers) == [0, 1]
