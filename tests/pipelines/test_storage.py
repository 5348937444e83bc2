import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from botocore.exceptions import ClientError

from pipelines import StorageError
from pipelines.local_store import STALE_S, LocalStore
from pipelines.locations import Location, parse_location
from pipelines.s3_store import S3Store
from pipelines.storage import Store, open_store, probe
from tests.conftest import Bucket


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(str(tmp_path / "deep" / "out"))
    else:
        bucket: Bucket = request.getfixturevalue("s3")
        yield open_store(bucket.url("deep/out"))


def test_the_first_writer_of_a_name_wins(store: Store) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.read("a") == b"first"
    assert store.put_if_absent("b", b"")
    assert not store.put_if_absent("b", b"x")
    assert store.read("b") == b""


def test_names_are_those_directly_in_the_folder(store: Store) -> None:
    assert store.names() == set()
    for name in ("b", "_job/plan.json", "a"):
        store.put_if_absent(name, b"x")
    assert store.names() == {"a", "b"}
    assert store.names("_job") == {"plan.json"}
    assert store.names("_job/none") == set()
    store.delete("a")
    store.delete("never")
    assert store.names() == {"b"}


def test_a_file_can_be_opened(store: Store) -> None:
    store.put_if_absent("a", b"0123456789")
    with store.open("a") as file:
        file.seek(4)
        assert file.read(3) == b"456"


def test_a_replaced_file_has_its_new_contents_and_nothing_is_left(store: Store) -> None:
    store.put_if_absent("a", b"old")
    assert store.replace("a", b"new", store.version("a"))
    assert store.read("a") == b"new"
    assert store.names() == {"a"}
    assert store.names("_job") == set()
    with pytest.raises(FileNotFoundError):
        store.version("b")


def test_of_two_who_replace_an_object_the_first_wins(s3: Bucket) -> None:
    store = S3Store(s3.url("out"))
    store.put_if_absent("a", b"old")
    seen = store.version("a")
    assert store.replace("a", b"first", seen)
    assert not store.replace("a", b"second", seen)
    assert store.read("a") == b"first"
    # As after a reply that was lost, when the client tries again.
    assert store.replace("a", b"first", seen)


def test_a_store_without_if_match_is_written_without_it(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = s3fs.S3FileSystem.call_s3
    headers: list[str | None] = []

    def refuse(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "put_object":
            headers.append(kwargs.get("IfMatch"))
            if "IfMatch" in kwargs:
                answer = {"Error": {"Code": "NotImplemented", "Message": "no If-Match here"}}
                error = ClientError(answer, "PutObject")  # type: ignore[arg-type]
                raise OSError(5, "no If-Match here") from error
        return call(self, method, *args, **kwargs)

    store = S3Store(s3.url("out"))
    store.put_if_absent("a", b"old")
    seen = store.version("a")
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", refuse)
    assert store.replace("a", b"new", seen)
    assert store.read("a") == b"new"
    assert headers == [seen, None]


def test_readers_never_miss_a_file_that_is_replaced(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put_if_absent("a", b"0" * 100_000)
    done = threading.Event()

    def write() -> None:
        for n in range(1, 50):
            store.replace("a", str(n % 10).encode() * 100_000, store.version("a"))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        data = store.read("a")
        assert data == data[:1] * 100_000
    writer.join()


def test_only_what_was_left_aside_long_ago_is_swept(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.sweep()
    store.put_if_absent("_job/plan.json", b"x")
    for name in ("old.tmp", "new.tmp"):
        (tmp_path / "_job" / name).write_bytes(b"x")
    for name in ("old.tmp", "plan.json"):
        os.utime(tmp_path / "_job" / name, times=(0, time.time() - STALE_S - 60))
    store.sweep()
    assert store.names("_job") == {"new.tmp", "plan.json"}


def test_a_good_store_passes_the_probe_and_keeps_nothing_of_it(store: Store) -> None:
    probe(store)
    assert store.names() == set()


def test_many_writers_of_one_name_leave_one_whole_file(store: Store) -> None:
    contents = [bytes([n]) * 100_000 for n in range(8)]
    wins: list[int] = []

    def write(n: int) -> None:
        if store.put_if_absent("a", contents[n]):
            wins.append(n)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("a") == contents[wins[0]]


def test_a_large_object_is_put_if_absent_in_parts(s3: Bucket) -> None:
    store, data = S3Store(s3.url("out")), os.urandom(101 << 20)
    assert store.put_if_absent("a", data)
    assert not store.put_if_absent("a", data[:-1])
    assert store.read("a") == data


class _Forgetful(LocalStore):
    """A store that ignores the condition, as some S3 servers do."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        path = Path(self.url, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return True


def test_a_store_that_lets_a_second_writer_win_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="lets a second writer replace a file"):
        probe(_Forgetful(str(tmp_path)))


def test_a_store_that_cannot_be_written_is_refused(s3: Bucket, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be written"):
        probe(S3Store(f"s3://no-{s3.bucket}/out"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="can't be written"):
        probe(LocalStore(str(tmp_path / "file" / "out")))


def test_a_put_whose_reply_was_lost_is_known_as_ones_own(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = s3fs.S3FileSystem._pipe_file

    async def lose_the_reply(self: Any, *args: Any, **kwargs: Any) -> Any:
        await put(self, *args, **kwargs)
        return await put(self, *args, **kwargs)  # as the client does when no reply came

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", lose_the_reply)
    store = S3Store(s3.url("out"))
    assert store.put_if_absent("a", b"attempt 1")
    assert not store.put_if_absent("a", b"attempt 2")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        LocalStore(str(tmp_path)).put_if_absent("a", b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["_job"]


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/a/b", Location("file", "/a/b")),
        ("file:///a/b/", Location("file", "/a/b")),
        ("s3://bucket/a/b/", Location("s3", "bucket/a/b")),
        ("s3://bucket", Location("s3", "bucket")),
    ],
)
def test_locations(url: str, location: Location) -> None:
    assert parse_location(url) == location


def test_local_paths_become_absolute() -> None:
    assert parse_location("a/b") == Location("file", str(Path.cwd() / "a/b"))


@pytest.mark.parametrize(
    "url",
    ["", " ", "http://x/y", "gs://b/k", "simplecache::s3://b/k", "s3://", "s3://b/../c", "a\0b"],
)
def test_other_locations_are_refused(url: str) -> None:
    with pytest.raises(StorageError):
        parse_location(url)


def test_a_file_is_written_in_pieces_at_once(store: Store) -> None:
    """Also one of more than a part of an upload; one that breaks off changes nothing."""

    def broken() -> Iterator[bytes]:
        yield b"x" * (60 << 20)
        raise KeyError

    large = [bytes([n]) * (20 << 20) for n in range(3)]
    assert store.write("folder/file", iter(large)) == 60 << 20
    assert store.read("folder/file") == b"".join(large)
    with pytest.raises(KeyError):
        store.write("folder/file", broken())
    with pytest.raises(KeyError):
        store.write("other", broken())
    assert store.names() == set()
    assert store.read("folder/file") == b"".join(large)
    assert store.write("folder/file", []) == 0
    assert store.read("folder/file") == b""
