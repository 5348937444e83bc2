"""Arrow columns of the kinds that are read the same: text in four encodings, lists in four."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from model.errors import PromptError


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds text: string, large_string, string_view, or a dictionary of these."""
    if pt.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_messages(kind: pa.DataType) -> bool:
    """Whether a type is a list of structs with a role and a content."""
    if not _is_list(kind) or not pt.is_struct(kind.value_type):
        return False
    names = {field.name for field in kind.value_type}
    return {"role", "content"} <= names


def texts(column: pa.ChunkedArray) -> Iterator[bytes | None]:
    """Give the UTF-8 bytes of each text, unchecked: decoding is where a row can fail."""
    kind = column.type
    if pt.is_dictionary(kind):
        column = column.cast(kind.value_type)
    # To binary first: that cast looks at no byte, so invalid UTF-8 comes through.
    raw = pa.binary_view() if pt.is_string_view(column.type) else pa.large_binary()
    for scalar in column.cast(raw):
        yield scalar.as_py()


def decoded(value: bytes | None, name: str) -> str:
    """Turn a text's bytes into a string.

    Raises:
        PromptError: it is null or not UTF-8.
    """
    if value is None:
        raise PromptError(f"column {name!r} is null")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise PromptError(f"column {name!r} is not valid UTF-8 at byte {error.start}") from None


def value_at(column: pa.ChunkedArray, row: int, name: str) -> Any:
    """Give one value as Python objects.

    Raises:
        PromptError: it is null, or text in it is not UTF-8.
    """
    try:
        value = column[row].as_py()
    except UnicodeDecodeError:
        raise PromptError(f"column {name!r} holds text that is not valid UTF-8") from None
    if value is None:
        raise PromptError(f"column {name!r} is null")
    return value


def without_invalid_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """Null the values that hold invalid UTF-8, and say in which rows.

    One such value would make a whole Parquet file unreadable to strict readers.
    """
    if _is_valid(column):
        return column, []
    if pt.is_dictionary(column.type):  # its dictionary would keep the text that nothing refers to
        plain, bad = without_invalid_text(column.cast(column.type.value_type))
        return plain.dictionary_encode().cast(column.type), bad
    # A copy where that can be had: a slice of lists is validated with all their values.
    cell = column.slice if _is_view(column.type) else lambda row, _: column.take([row])
    bad = [row for row in range(len(column)) if not _is_valid(cell(row, 1))]
    return without_values(column, set(bad)), bad


def without_values(column: pa.ChunkedArray, lost: set[int]) -> pa.ChunkedArray:
    """Null some rows' values, in a copy: a slice would hold on to them."""
    kind = column.type
    if _is_view(kind):
        buffers = (value.as_buffer() for value in column)
        values = [
            None if buffer is None or row in lost else buffer.to_pybytes()
            for row, buffer in enumerate(buffers)
        ]
        raw = pa.array(values, pa.binary_view())
        array = pa.Array.from_buffers(kind, len(raw), raw.buffers(), raw.null_count)
        return pa.chunked_array([array])
    rows = [None if row in lost else row for row in range(len(column))]
    kept = column.take(pa.array(rows, pa.int64()))
    if not pt.is_dictionary(kind):
        return kept
    # Its dictionary would keep the values that nothing refers to.
    return kept.cast(kind.value_type).dictionary_encode().cast(kind)


def _is_view(kind: pa.DataType) -> bool:
    """Whether a type is one that pyarrow can't take rows from."""
    return bool(pt.is_string_view(kind) or pt.is_binary_view(kind))


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))
