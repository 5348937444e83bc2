"""Columns that stand in a file's path: `date=2026-11-22/part-0.parquet`."""

from collections.abc import Iterable, Sequence
from urllib.parse import unquote

import pyarrow as pa

# A column's name, its type ("int64" or "string"), and its value, as it is spelled.
Partition = tuple[str, str, str | None]

# What Hive writes for null.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
INT64 = range(-(2**63), 2**63)


def partitions_of(path: str) -> tuple[tuple[str, str | None], ...]:
    """Read the `key=value` folders of a path, from the outermost to the innermost.

    Raises:
        ValueError: two of them have the same key.
    """
    pairs = [folder.partition("=") for folder in path.split("/")[:-1]]
    found = [(unquote(key), _value(value)) for key, equals, value in pairs if key and equals]
    keys = [key for key, _ in found]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise ValueError(f"lies in two folders that begin with {min(twice)}=")
    return tuple(found)


def partition_types(partitions: Iterable[Iterable[Partition]]) -> dict[str, str]:
    """Give the partitions of all files their types: integer where all values are, else text.

    `01` is no integer: its zero would be lost.
    """
    values: dict[str, set[str]] = {}
    for of_file in partitions:
        for key, _, value in of_file:
            values.setdefault(key, set()).update(() if value is None else (value,))
    return {
        key: "int64" if found and all(map(_is_integer, found)) else "string"
        for key, found in values.items()
    }


def with_partitions(
    table: pa.Table, partitions: Iterable[Partition], columns: Sequence[str] | None
) -> pa.Table:
    """Append those among the wanted columns (None is all) that stand in a path."""
    for key, kind, value in partitions:
        if columns is None or key in columns:
            type_ = pa.type_for_alias(kind)
            column = _repeated(value, type_, table.num_rows)
            table = table.append_column(pa.field(key, type_), column)
    return table


def _value(text: str) -> str | None:
    return None if text == HIVE_NULL else unquote(text)


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        return False
    return str(int(text)) == text and int(text) in INT64


def _repeated(value: str | None, kind: pa.DataType, rows: int) -> pa.Array:
    if value is None:
        return pa.nulls(rows, kind)
    return pa.repeat(pa.scalar(int(value) if pa.types.is_integer(kind) else value, kind), rows)
