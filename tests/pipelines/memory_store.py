"""A store without a disk, whose user can be killed at any step."""

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO


class KilledError(BaseException):
    """The process is gone: nothing after this happens."""


@dataclass
class MemoryStore:
    """Files by name.

    Attributes:
        files: name to contents.
        steps: writes until the process that uses it is killed; None lets it live.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    steps: int | None = None
    url: str = "memory"

    def step(self) -> None:
        if self.steps is not None:
            if self.steps <= 0:
                raise KilledError
            self.steps -= 1

    def kill(self) -> None:
        self.steps = 0
        raise KilledError

    def put_if_absent(self, name: str, data: bytes) -> bool:
        self.step()
        return self.files.setdefault(name, data) is data

    def version(self, name: str) -> str:
        if name not in self.files:
            raise FileNotFoundError(name)
        return str(hash(self.files[name]))

    def replace(self, name: str, data: bytes, version: str) -> bool:
        self.step()
        if self.version(name) != version:
            return False
        self.files[name] = data
        return True

    def write(self, name: str, pieces: Iterable[bytes]) -> int:
        data = b"".join(pieces)
        self.step()
        self.files[name] = data
        return len(data)

    def names(self, folder: str = "") -> set[str]:
        split = [name.rpartition("/") for name in self.files]
        return {name for inside, _, name in split if inside == folder}

    def sweep(self) -> None:
        pass

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def delete(self, name: str) -> None:
        self.step()
        self.files.pop(name, None)
