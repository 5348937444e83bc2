"""What is asked of the worker, and how files and batches and their owners are called."""

import hashlib
import secrets
from dataclasses import dataclass

from pydantic import BaseModel

from cluster.serve.protocol.batches import BatchUrl, Metadata
from cluster.serve.protocol.files import Purpose


def new_id(prefix: str, time_s: float) -> str:
    """Make an id that nobody can guess; ids sort as their times do."""
    return f"{prefix}{int(time_s * 1000):012x}{secrets.token_hex(10)}"


def owner_of(name: str) -> str:
    """Name the folder of whoever has keys of this name; a new key of an old name has the old's."""
    return hashlib.sha256(f"owner {name}".encode()).hexdigest()[:32]


def purpose_of(file_id: str) -> Purpose:
    """Tell uploaded files from results."""
    return "batch_output" if file_id.endswith(("-output", "-errors")) else "batch"


class Order(BaseModel):
    """What was asked for; see Batch."""

    id: str
    owner: str
    endpoint: BatchUrl
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: Metadata | None = None

    @property
    def output_id(self) -> str:
        """The file of answers: always the same, so that who writes it again replaces it."""
        return f"file-{self.id.removeprefix('batch_')}-output"

    @property
    def errors_id(self) -> str:
        """The file of lines that have none."""
        return f"file-{self.id.removeprefix('batch_')}-errors"

    @property
    def work(self) -> str:
        """The folder of what happens to it."""
        return f"owners/{self.owner}/work/{self.id}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch in the queue; entries sort by the times that they were made at."""

    batch_id: str
    owner: str

    @property
    def name(self) -> str:
        """Its file."""
        return f"queue/{self.batch_id}.{self.owner}"

    @property
    def mark(self) -> str:
        """The file that says that it was cancelled, so that it need not wait for its turn."""
        return f"{self.name}.cancelled"
