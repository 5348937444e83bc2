"""Whether two columns hold the same values, and where they do not.

Values are compared, not their encodings: a dictionary equals the text that it stands for. Numbers
are compared bit by bit, so that NaN equals itself and -0.0 differs from 0.0.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.types as pt

_BITS = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def differing_rows(left: pa.ChunkedArray, right: pa.ChunkedArray) -> list[int]:
    """List the rows in which two columns differ.

    Args:
        left: the one.
        right: the other, of the same type and length.
    """
    assert len(left) == len(right)
    if _holds_floats(left.type):  # Arrow calls -0.0 in a list equal to 0.0
        pairs = enumerate(zip(left, right, strict=True))
        return [row for row, (one, other) in pairs if not _same(one, other)]
    return list(_differing(_as_bits(left), _as_bits(right), 0))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace a dictionary by the values that it stands for."""
    return column.cast(column.type.value_type) if pt.is_dictionary(column.type) else column


def _holds_floats(kind: pa.DataType) -> bool:
    parts = [kind.field(n).type for n in range(kind.num_fields)] if pt.is_nested(kind) else []
    return any(pt.is_floating(part) or _holds_floats(part) for part in parts)


def _as_bits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pt.is_floating(column.type):
        return column
    bits = _BITS[column.type.bit_width]
    return pa.chunked_array([chunk.view(bits) for chunk in column.chunks], bits)


def _differing(left: pa.ChunkedArray, right: pa.ChunkedArray, start: int) -> Iterator[int]:
    """Halve what differs until single rows are left: equal stretches cost next to nothing."""
    if left.equals(right):
        return
    if len(left) == 1:
        if not _same(left[0], right[0]):
            yield start
        return
    half = len(left) // 2
    yield from _differing(left.slice(0, half), right.slice(0, half), start)
    yield from _differing(left.slice(half), right.slice(half), start + half)


def _same(left: pa.Scalar, right: pa.Scalar) -> bool:
    """Compare two values where Arrow may err: NaN in a list differs from itself for it.

    Python writes out floats so that no two of them look alike.
    """
    try:
        return repr(left.as_py()) == repr(right.as_py())
    except (ValueError, OverflowError):  # no Python object can hold it
        return bool(left.equals(right))
