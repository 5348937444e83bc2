"""Values too large to pass on, found without touching the others."""

from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from .columns import without_values

# Far more than the longest prompt takes (a million characters). Larger values would fill the memory
# of those who pass them on.
MAX_CELL_BYTES = 16 << 20

Sizes = npt.NDArray[np.int64]


def without_large_cells(table: pa.Table) -> tuple[pa.Table, dict[int, str]]:
    """Null the values of more than MAX_CELL_BYTES of text or binary.

    Returns:
        The table, and each row that lost a value to the reason.
    """
    faults: dict[int, str] = {}
    for index, field in enumerate(table.schema):
        column = table.column(index)
        # Buffers hold at least what the values take: nearly always that settles it.
        if column.get_total_buffer_size() <= MAX_CELL_BYTES:
            continue
        sizes = np.concatenate([byte_sizes(chunk) for chunk in column.chunks])
        large = np.flatnonzero(sizes > MAX_CELL_BYTES).tolist()
        if large:
            faults |= {row: _reason(field.name, int(sizes[row])) for row in large}
            table = table.set_column(index, field, without_values(column, set(large)))
    return table, faults


def byte_sizes(array: pa.Array) -> Sizes:
    """Give the bytes of text and binary in each value, at any depth; other values have none."""
    kind = array.type
    if pt.is_dictionary(kind):
        entries = byte_sizes(array.dictionary)
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        sizes = entries[indices] if len(entries) else np.zeros(len(array), np.int64)
    elif pt.is_struct(kind):
        fields = [byte_sizes(array.field(i)) for i in range(kind.num_fields)]
        sizes = np.sum(fields, axis=0, dtype=np.int64) if fields else np.zeros(len(array), np.int64)
    elif pt.is_list(kind) or pt.is_large_list(kind) or pt.is_map(kind):
        ends = np.concatenate([[0], np.cumsum(byte_sizes(array.values))])
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        sizes = ends[offsets[1:]] - ends[offsets[:-1]]
    elif pt.is_fixed_size_list(kind):
        inside = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        sizes = byte_sizes(inside).reshape(len(array), kind.list_size).sum(axis=1)
    elif isinstance(array, pa.ExtensionArray):
        sizes = byte_sizes(array.storage)
    elif _has_bytes(kind):
        buffers = (value.as_buffer() for value in array)
        sizes = np.fromiter((b.size if b else 0 for b in buffers), np.int64, len(array))
    else:
        sizes = np.zeros(len(array), np.int64)
    return cast("Sizes", sizes)


def _has_bytes(kind: pa.DataType) -> bool:
    texts = pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)
    binaries = pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind)
    return bool(texts or binaries)


def _reason(name: str, size: int) -> str:
    return f"column {name!r} holds {size} bytes, and at most {MAX_CELL_BYTES} are read; null here"
