"""Row 2, short, and what a store must be refused for."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import s3fs
from botocore.exceptions import ClientError

from pipelines import StorageError
from pipelines.s3_store import S3Store
from pipelines.storage import probe

from .conftest import Chaos, pointed_at
from .proxy import FAULTS
from .servers import client, fault_proxy, forgetful_proxy, rclone_server

KIB = 1 << 10


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of 2 KiB and more are uploaded in parts."""
    put: Any = s3fs.S3FileSystem._pipe_file
    monkeypatch.setattr(put, "__defaults__", (KIB, *put.__defaults__[1:]))


@pytest.fixture
def bucket(s3_process: str) -> Iterator[str]:
    name = f"test-{uuid4().hex}"
    client(s3_process).create_bucket(Bucket=name)
    with pointed_at(s3_process):
        yield name


def uploads(endpoint: str, bucket: str) -> list[Any]:
    found: list[Any] = client(endpoint).list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return found


@pytest.mark.slow
def test_no_row_is_lost_or_doubled_behind_a_bad_network(chaos: Chaos) -> None:
    (figures,) = chaos("s3", "--trials=4", "--seed=1")
    assert sum(figures["faults"].values()) >= 20
    assert set(figures["faults"]) == set(FAULTS)
    assert (figures["lost"], figures["doubled"], figures["bad_trials"]) == (0, 0, 0)


def test_a_refused_upload_in_parts_leaves_none_of_them(
    s3_process: str, bucket: str, small_parts: None
) -> None:
    store = S3Store(f"s3://{bucket}/out")
    assert store.put_if_absent("a", b"1" * 5 * KIB)
    assert not store.put_if_absent("a", b"2" * 5 * KIB)
    assert store.read("a") == b"1" * 5 * KIB
    assert uploads(s3_process, bucket) == []


def test_an_upload_in_parts_is_ones_own_though_its_end_was_not_heard_of(
    s3_process: str, bucket: str, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = s3fs.S3FileSystem._call_s3

    async def lose_the_reply(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        answer = await call(self, method, *args, **kwargs)
        if method == "complete_multipart_upload":  # what S3 says when the client asks again
            gone = {"Error": {"Code": "NoSuchUpload"}}
            raise FileNotFoundError("no such upload") from ClientError(gone, method)
        return answer

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", lose_the_reply)
    store = S3Store(f"s3://{bucket}/out")
    assert store.put_if_absent("a", b"1" * 5 * KIB)
    assert not store.put_if_absent("a", b"2" * 5 * KIB)
    assert uploads(s3_process, bucket) == []


def test_a_server_that_ignores_conditions_is_refused(s3_process: str, bucket: str) -> None:
    with forgetful_proxy(s3_process) as endpoint, pointed_at(endpoint):
        store = S3Store(f"s3://{bucket}/out")
        assert store.put_if_absent("a", b"1")
        assert store.put_if_absent("a", b"2")
        with pytest.raises(StorageError, match="lets a second writer replace a file"):
            probe(store)


def test_rclones_server_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    with (
        rclone_server(tmp_path) as endpoint,
        pointed_at(endpoint),
        pytest.raises(StorageError, match="lets a second writer replace a file"),
    ):
        probe(S3Store("s3://bucket/out"))


def test_the_proxy_does_nothing_when_nothing_is_to_be_done(s3_process: str, bucket: str) -> None:
    with fault_proxy(s3_process) as endpoint, pointed_at(endpoint):
        store = S3Store(f"s3://{bucket}/out")
        probe(store)
        assert store.put_if_absent("a", b"0123456789" * KIB)
        with store.open("a") as file:
            file.seek(4)
            assert file.read(3) == b"456"
        assert store.names() == {"a"}
        with urllib.request.urlopen(f"{endpoint}/.faults") as answer:
            assert b'"requests": 0' not in answer.read()
