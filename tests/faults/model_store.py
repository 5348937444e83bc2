"""A store in memory whose callers can be stopped before or after any of its steps."""

import io
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

When = Literal["before", "after", "late"]


class StoppedError(BaseException):
    """The process is gone: what it did stays, and nothing comes after it."""


@dataclass
class Files:
    """What all processes see.

    Attributes:
        contents: name to bytes.
        late: writes that were sent by processes that are gone, and have not arrived yet.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    late: list[tuple[str, bytes]] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> bool:
        """Create a file, unless the name is taken."""
        if name in self.contents:
            return False
        self.contents[name] = data
        return True


@dataclass
class ModelStore:
    """One process's view of the files.

    Attributes:
        files: shared with others.
        steps: calls until the process stops; None lets it live.
        when: whether it stops before that call takes effect, after it, or is stopped amid it, so
            that a write arrives later.
    """

    files: Files
    steps: int | None = None
    when: When = "before"
    url: str = "memory"

    def put_if_absent(self, name: str, data: bytes) -> bool:
        last = self._last()
        if last and self.when == "late":
            self.files.late.append((name, data))
        self._stop_if(last and self.when != "after")
        created = self.files.put(name, data)
        self._stop_if(last)
        return created

    def names(self, folder: str = "") -> set[str]:
        self._stop_if(self._last())
        split = [name.rpartition("/") for name in self.files.contents]
        return {name for above, _, name in split if above == folder}

    def read(self, name: str) -> bytes:
        self._stop_if(self._last())
        if name not in self.files.contents:
            raise FileNotFoundError(name)
        return self.files.contents[name]

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def delete(self, name: str) -> None:
        self._stop_if(self._last())
        self.files.contents.pop(name, None)

    def version(self, name: str) -> str:
        return str(hash(self.read(name)))

    def replace(self, name: str, data: bytes, version: str) -> bool:
        if self.version(name) != version:
            return False
        self.files.contents[name] = data
        return True

    def sweep(self) -> None:
        pass

    def _last(self) -> bool:
        if self.steps is None:
            return False
        self.steps -= 1
        return self.steps <= 0

    def _stop_if(self, condition: bool) -> None:
        if condition:
            raise StoppedError
