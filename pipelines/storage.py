"""Where a job reads and writes: local folders and S3, nothing else.

A store's first promise is put-if-absent: a name is given to whole contents or to none, and the
first writer of a name wins. Every commit of a job rests on it, so a store is probed before it is
used. The second: a file that is replaced is there all the time, with its old contents or the new.
"""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import fsspec
import s3fs
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from .errors import StorageError
from .s3 import ENVIRONMENT, S3Settings

CONFLICT_RETRIES = 5
# What was written aside and is older than this belongs to nobody any more.
STALE_S = 24 * 3600.0
# S3's error codes, or the HTTP status of stores that give no code.
TAKEN = {"PreconditionFailed", "412"}
CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
NO_IF_MATCH = {"NotImplemented", "InvalidArgument", "501"}
# An upload in parts that was completed already, by a request whose reply was lost.
ENDED = {"NoSuchUpload"}


@dataclass(frozen=True, slots=True)
class Location:
    """A file, folder or glob pattern: `scheme` is "file" or "s3", `path` has no scheme."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return self.path if self.scheme == "file" else f"s3://{self.path}"


def parse_location(url: str) -> Location:
    """Tell local paths and S3 URLs apart, and refuse everything that fsspec would open besides.

    Local paths become absolute, since workers run in folders of their own.

    Raises:
        StorageError: another scheme, a chained URL (`::`), or `..` in a key.
    """
    scheme, separator, rest = url.partition("://")
    if not url.strip() or "::" in url or "\0" in url:
        raise StorageError(f"{url!r} is no path: give a local path or s3://bucket/key")
    if not separator or scheme == "file":
        return Location("file", str(Path(rest if separator else url).expanduser().absolute()))
    if scheme != "s3":
        raise StorageError(f"{url}: {scheme}:// is not supported; give a local path or s3://...")
    parts = rest.strip("/").split("/")
    if not parts[0] or any(part in {"..", "."} for part in parts):
        raise StorageError(f"{url}: give s3://bucket/key, without '.' or '..' in it")
    return Location("s3", "/".join(parts))


def filesystem(scheme: str, s3: S3Settings = ENVIRONMENT) -> Any:
    """Give the fsspec filesystem of a location; S3 credentials come from the environment."""
    if scheme == "s3":
        return s3fs.S3FileSystem(use_listings_cache=False, **s3.client_options())
    return fsspec.filesystem("file")


class Store(Protocol):
    """A folder of files that are written once."""

    @property
    def url(self) -> str:
        """What the user calls it."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Create a file, whole and durable; False if the name is taken, by whatever contents."""
        ...

    def version(self, name: str) -> str:
        """Tell a file's contents from others, where the store can; "" where it can't.

        Raises FileNotFoundError.
        """
        ...

    def replace(self, name: str, data: bytes, version: str) -> bool:
        """Give a file new contents, whole and durable, at once.

        Returns:
            False if it is no longer of this version, so that the caller must read it again.
        """
        ...

    def names(self, folder: str = "") -> set[str]:
        """List the files directly in the store's folder, or in a folder below it."""
        ...

    def sweep(self) -> None:
        """Remove what writers that were killed a day or more ago left aside."""
        ...

    def read(self, name: str) -> bytes:
        """Give a file's contents. Raises FileNotFoundError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        ...


def open_store(url: str, s3: S3Settings = ENVIRONMENT) -> Store:
    """Give the store of a local folder or an S3 prefix; nothing is created yet."""
    location = parse_location(url)
    if location.scheme == "s3":
        return S3Store(str(location), s3)
    return LocalStore(location.path)


def probe(store: Store) -> None:
    """Make sure that the store keeps a name for its first writer.

    Raises:
        StorageError: it can't be written, or it lets a second writer replace a file.
    """
    name = f"_job/probe-{uuid.uuid4().hex}"
    try:
        first, second = store.put_if_absent(name, b"1"), store.put_if_absent(name, b"2")
        kept = store.read(name)
        store.delete(name)
    except (OSError, BotoCoreError) as error:
        raise StorageError(f"{store.url} can't be written: {error}") from error
    if not first or second or kept != b"1":
        raise StorageError(
            f"{store.url}: this store lets a second writer replace a file (it ignores "
            "If-None-Match), so results could be lost; use one with conditional writes"
        )


@dataclass(frozen=True)
class LocalStore:
    """A folder on a filesystem with hard links. Pickles as its path."""

    url: str

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write aside, then link: a link never replaces a file, and is there whole or not at all.

        Raises:
            StorageError: the filesystem has no hard links.
        """
        target = Path(self.url, name)
        with self._aside(target, data) as aside:
            try:
                target.hardlink_to(aside)
                _sync_folder(target.parent)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
                    raise StorageError(f"{self.url}: this filesystem has no hard links") from error
                raise
        return True

    def version(self, name: str) -> str:
        """Files here have no versions: of two who replace one at once, the later wins."""
        if not Path(self.url, name).is_file():
            raise FileNotFoundError(f"{self.url}/{name}")
        return ""

    def replace(self, name: str, data: bytes, version: str) -> bool:  # noqa: ARG002 - see version
        """Write aside, then rename over the file."""
        target = Path(self.url, name)
        with self._aside(target, data) as aside:
            aside.replace(target)
            _sync_folder(target.parent)
        return True

    @contextlib.contextmanager
    def _aside(self, target: Path, data: bytes) -> Iterator[Path]:
        """Hold durable contents beside their place; what is left of them there is removed."""
        aside = Path(self.url, "_job", f"{uuid.uuid4().hex}.tmp")
        _make_folders(target.parent)
        _make_folders(aside.parent)
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield aside
        finally:
            aside.unlink(missing_ok=True)

    def names(self, folder: str = "") -> set[str]:
        """List the files directly in the folder."""
        try:
            return {path.name for path in Path(self.url, folder).iterdir() if path.is_file()}
        except FileNotFoundError:
            return set()

    def sweep(self) -> None:
        """Remove files written aside that are a day old by this machine's clock."""
        for path in Path(self.url, "_job").glob("*.tmp"):
            with contextlib.suppress(OSError):  # another run swept it, or owns it
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def read(self, name: str) -> bytes:
        """Give a file's contents."""
        return Path(self.url, name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return Path(self.url, name).open("rb")

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        Path(self.url, name).unlink(missing_ok=True)


@dataclass(frozen=True)
class S3Store:
    """An S3 prefix. Pickles as its URL and settings: each process makes its own client."""

    url: str
    s3: S3Settings = ENVIRONMENT

    @property
    def _fs(self) -> Any:
        return filesystem("s3", self.s3)  # fsspec keeps one instance per process and settings

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Put with `If-None-Match: *`, in one request or as a multipart upload."""
        path = f"{self.url}/{name}"
        for attempt in range(CONFLICT_RETRIES):
            try:
                self._fs.pipe_file(path, data, mode="create")
            except OSError as error:
                code = _s3_code(error)
                if isinstance(error, FileExistsError) or code in TAKEN:
                    # The reply to our own put may have been lost and the client have tried again.
                    return self.read(name) == data
                if code in ENDED:
                    with contextlib.suppress(FileNotFoundError):
                        return self.read(name) == data
                if code not in CONFLICT | ENDED or attempt == CONFLICT_RETRIES - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            else:
                return True
        raise AssertionError("unreachable")

    def version(self, name: str) -> str:
        """Give the ETag."""
        return str(self._fs.info(f"{self.url}/{name}", refresh=True)["ETag"])

    def replace(self, name: str, data: bytes, version: str) -> bool:
        """Put with `If-Match`; without it where the store does not know that header."""
        bucket, key, _ = self._fs.split_path(f"{self.url}/{name}")
        put = partial(self._fs.call_s3, "put_object", Bucket=bucket, Key=key, Body=data)
        for attempt in range(CONFLICT_RETRIES):
            try:
                put(IfMatch=version)
            except (OSError, ClientError) as error:
                code = _s3_code(error)
                if isinstance(error, FileExistsError) or code in TAKEN:
                    # The reply to our own put may have been lost and the client have tried again.
                    return self.read(name) == data
                if code in NO_IF_MATCH:
                    put()
                    return True
                if code not in CONFLICT or attempt == CONFLICT_RETRIES - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            else:
                return True
        raise AssertionError("unreachable")

    def names(self, folder: str = "") -> set[str]:
        """List the files directly in the folder."""
        try:
            entries = self._fs.ls(f"{self.url}/{folder}".rstrip("/"), detail=True, refresh=True)
        except FileNotFoundError:
            return set()
        return {entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file"}

    def sweep(self) -> None:
        """Nothing is written aside here."""

    def read(self, name: str) -> bytes:
        """Give a file's contents."""
        return cast("bytes", self._fs.cat_file(f"{self.url}/{name}"))

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return cast("BinaryIO", self._fs.open(f"{self.url}/{name}", "rb"))

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self.url}/{name}")


def _s3_code(error: Exception) -> str:
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(cause, ClientError):
        return str(cause.response.get("Error", {}).get("Code", ""))
    return ""


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, each of them durable."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
