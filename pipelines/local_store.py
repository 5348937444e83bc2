"""A store on a local filesystem: its promises rest on hard links and renames."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import StorageError

# What was written aside and is older than this belongs to nobody any more.
STALE_S = 24 * 3600.0


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
        with self._aside(target, [data]) as (aside, _):
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
        self.write(name, [data])
        return True

    def write(self, name: str, pieces: Iterable[bytes]) -> int:
        """Write aside, then rename to its place."""
        target = Path(self.url, name)
        with self._aside(target, pieces) as (aside, size):
            aside.replace(target)
            _sync_folder(target.parent)
        return size

    @contextlib.contextmanager
    def _aside(self, target: Path, pieces: Iterable[bytes]) -> Iterator[tuple[Path, int]]:
        """Hold durable contents beside their place, and tell their size; then clean up there."""
        aside = Path(self.url, "_job", f"{uuid.uuid4().hex}.tmp")
        _make_folders(target.parent)
        _make_folders(aside.parent)
        try:
            with aside.open("xb") as file:
                size = sum(map(file.write, pieces))
                file.flush()
                os.fsync(file.fileno())
            yield aside, size
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
