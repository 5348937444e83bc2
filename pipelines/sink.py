"""Where computed packets go: each becomes its unit's part."""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from .attempts import forget
from .commit import Receipt, commit
from .errors import StorageError
from .locations import STORE_ERRORS
from .packet import file_name_of, result_table, trace_of, unit_label, unit_of
from .plan import Plan
from .storage import Store


class Sink(Protocol):
    """Makes computed packets durable; it travels to the replicas."""

    @property
    def store(self) -> Store:
        """The output."""
        ...

    def put(self, packet: pa.Table) -> Receipt:
        """Give the receipt of the part that the packet's unit has then."""
        ...


@dataclass(frozen=True, slots=True)
class NewParts:
    """Writes each unit's part, unless it is there.

    Attributes:
        store: the output.
        plan: the job's.
        schema: of the output.
    """

    store: Store
    plan: Plan
    schema: pa.Schema

    def put(self, packet: pa.Table) -> Receipt:
        """Commit a unit."""
        table = result_table(packet, self.schema)
        return commit(self.store, self.plan, unit_of(packet), table, trace_of(packet))


def commit_packet(sink: Sink, packet: pa.Table) -> Receipt:
    """Make a packet durable, and forget how often its unit was tried.

    Raises:
        StorageError: the store does not take it.
    """
    unit = unit_of(packet)
    try:
        receipt = sink.put(packet)
        forget(sink.store, unit, range(1, trace_of(packet).attempt + 1))
    except STORE_ERRORS as error:
        label = unit_label(file_name_of(packet), unit)
        raise StorageError(f"{sink.store.url}: can't write {label}: {error}") from error
    return receipt
