"""Units on their way through Ray Data: one dataset row each, so no block boundary crosses a unit.

A packet is a table of one row. The unit's own rows travel in it as Arrow IPC bytes: the prompts,
which the replica reads and replaces by answers, and the kept columns, which it passes on unread.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import cast

import pyarrow as pa

from actors.trace import Trace

from .plan import Unit

ROWS, PROMPTS, KEPT, ANSWERS = "rows", "prompts", "kept", "answers"
TRACE_SCHEMA = pa.schema(
    [
        pa.field("begun", pa.float64()),
        pa.field("finished", pa.float64()),
        pa.field("replica", pa.string()),
        pa.field("latencies", pa.list_(pa.int64())),
        pa.field("attempt", pa.int32()),
    ]
)


def make_packet(
    unit: Unit,
    file_name: str,
    prompts: pa.Table,
    kept: pa.Table,
    rows: Sequence[int] | None = None,
) -> pa.Table:
    """Put a unit's prompts and kept columns into a packet.

    Args:
        unit: which.
        file_name: of its input file.
        prompts: one row for each row to compute.
        kept: likewise.
        rows: where these rows stand in the file; None is all rows of the unit.
    """
    places = range(unit.first, unit.last) if rows is None else rows
    return pa.table(
        {
            "file": pa.array([unit.file], pa.int32()),
            "first": pa.array([unit.first], pa.int64()),
            "last": pa.array([unit.last], pa.int64()),
            ROWS: pa.array([list(places)], pa.list_(pa.int64())),
            "file_name": pa.array([file_name], pa.string()),
            PROMPTS: _packed(prompts),
            KEPT: _packed(kept),
        }
    )


def sliced(packet: pa.Table, low: int, high: int) -> pa.Table:
    """Take the rows at places [low, high) of a packet, without their kept columns."""
    prompts, rows = unpacked(packet, PROMPTS).slice(low, high - low), rows_of(packet)[low:high]
    return make_packet(unit_of(packet), file_name_of(packet), prompts, pa.table({}), rows)


def for_rows(packet: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Say which rows of its unit a packet holds, if not all of them."""
    return _replaced(packet, ROWS, ROWS, pa.array([list(rows)], pa.list_(pa.int64())))


def with_answers(packet: pa.Table, answers: pa.Table, trace: Trace) -> pa.Table:
    """Replace a packet's prompts by their answers."""
    packet, values = _replaced(packet, PROMPTS, ANSWERS, _packed(answers)), asdict(trace)
    for field in TRACE_SCHEMA:
        packet = packet.append_column(field, pa.array([values[field.name]], field.type))
    return packet


def trace_of(packet: pa.Table) -> Trace:
    """Tell who computed a packet, and when."""
    values = {field.name: packet[field.name][0].as_py() for field in fields(Trace)}
    return Trace(**{**values, "latencies": tuple(values["latencies"])})


def unit_of(packet: pa.Table) -> Unit:
    """Tell which unit a packet holds."""
    return Unit(*(packet[name][0].as_py() for name in ("file", "first", "last")))


def file_name_of(packet: pa.Table) -> str:
    """Tell which file it is from."""
    return cast("str", packet["file_name"][0].as_py())


def rows_of(packet: pa.Table) -> list[int]:
    """Tell where its rows stand in the file."""
    return cast("list[int]", packet[ROWS][0].as_py())


def unpacked(packet: pa.Table, name: str) -> pa.Table:
    """Give one of the tables in a packet, without a copy."""
    return pa.ipc.open_stream(packet[name][0].as_buffer()).read_all()


def result_table(packet: pa.Table, schema: pa.Schema) -> pa.Table:
    """Put a packet's kept columns, row identities and answers together, as the output has them."""
    unit, kept, answers = unit_of(packet), unpacked(packet, KEPT), unpacked(packet, ANSWERS)
    columns = {
        **dict(zip(kept.column_names, kept.columns, strict=True)),
        **dict(zip(answers.column_names, answers.columns, strict=True)),
        "source_file": pa.array([file_name_of(packet)] * unit.rows, pa.string()),
        "source_row": pa.array(range(unit.first, unit.last), pa.int64()),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def unit_label(file_name: str, unit: Unit) -> str:
    """Name a unit for people."""
    return f"{file_name} rows {unit.first}-{unit.last}"


def to_bytes(packet: pa.Table) -> bytes:
    """Write a packet down."""
    return cast("bytes", _stream(packet).to_pybytes())


def from_bytes(data: bytes) -> pa.Table:
    """Read what to_bytes wrote. Raises ArrowInvalid."""
    return pa.ipc.open_stream(data).read_all()


def _replaced(packet: pa.Table, old: str, new: str, values: pa.Array) -> pa.Table:
    return packet.set_column(packet.schema.get_field_index(old), new, values)


def _packed(table: pa.Table) -> pa.Array:
    data = _stream(table)
    offsets = pa.array([0, data.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def _stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
