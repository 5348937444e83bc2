"""Where a job writes: what it asks of a store, and which stores there are.

A store's first promise is put-if-absent: a name is given to whole contents or to none, and the
first writer of a name wins. Every commit of a job rests on it, so a store is probed before it is
used. The second: a file that is replaced is there all the time, with its old contents or the new.
"""

import uuid
from collections.abc import Iterable
from typing import BinaryIO, Protocol

from .errors import StorageError
from .local_store import LocalStore
from .locations import STORE_ERRORS, parse_location
from .s3 import ENVIRONMENT, S3Settings
from .s3_store import S3Store


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

    def write(self, name: str, pieces: Iterable[bytes]) -> int:
        """Give a file contents that need not fit into memory, whole and durable, at once.

        What was there is replaced. If the pieces end with an exception, nothing changes.

        Returns:
            How many bytes there were.
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
    except STORE_ERRORS as error:
        raise StorageError(f"{store.url} can't be written: {error}") from error
    if not first or second or kept != b"1":
        raise StorageError(
            f"{store.url}: this store lets a second writer replace a file (it ignores "
            "If-None-Match), so results could be lost; use one with conditional writes"
        )
