"""Units on their way through Ray Data: one dataset row each, so no block boundary crosses a unit.

A packet is a table of one row. The unit's own rows travel in it as Arrow IPC bytes: the prompts,
which the replica reads and replaces by answers, and the kept columns, which it passes on unread.
"""

from typing import cast

import pyarrow as pa

from .plan import Unit

PROMPTS, KEPT, ANSWERS = "prompts", "kept", "answers"


def make_packet(unit: Unit, file_name: str, prompts: pa.Table, kept: pa.Table) -> pa.Table:
    """Put a unit's prompts and kept columns into a packet."""
    return pa.table(
        {
            "file": pa.array([unit.file], pa.int32()),
            "first": pa.array([unit.first], pa.int64()),
            "last": pa.array([unit.last], pa.int64()),
            "file_name": pa.array([file_name], pa.string()),
            PROMPTS: _packed(prompts),
            KEPT: _packed(kept),
        }
    )


def with_answers(packet: pa.Table, answers: pa.Table) -> pa.Table:
    """Replace a packet's prompts by their answers."""
    return packet.drop_columns([PROMPTS]).append_column(ANSWERS, _packed(answers))


def unit_of(packet: pa.Table) -> Unit:
    """Tell which unit a packet holds."""
    return Unit(*(packet[name][0].as_py() for name in ("file", "first", "last")))


def file_name_of(packet: pa.Table) -> str:
    """Tell which file it is from."""
    return cast("str", packet["file_name"][0].as_py())


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


def _packed(table: pa.Table) -> pa.Array:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    offsets = pa.array([0, data.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])
