"""The columns of JSON lines: their types, taken from the first lines, and rows of these types.

Text, integers, numbers and booleans are columns of their own types. What is nested, or of several
types, is kept as its JSON text, which is also how chat messages may come.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from model.errors import PromptError

from .jsonl import Line, parse_line

FIRST_LINES = 1000
FIRST_BYTES = 16 << 20
INT64 = range(-(2**63), 2**63)

# What a line holds, or why nothing.
Object = dict[str, Any] | PromptError

# Marks a text column that holds JSON.
JSON_MARK = {b"gemmaray": b"json"}
JSON = "nested"
TYPES = {
    "text": pa.string(),
    "an integer": pa.int64(),
    "a number": pa.float64(),
    "a boolean": pa.bool_(),
    JSON: pa.string(),
}


def first_objects(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """Give the objects in the first lines, those that hold one: a thousand, or 16 MiB of them."""
    found: list[dict[str, Any]] = []
    size = 0
    for line in itertools.islice(lines, FIRST_LINES):
        size += 0 if isinstance(line, int) else len(line)
        if size > FIRST_BYTES and found:
            break
        try:
            found.append(parse_line(line))
        except PromptError:
            continue
    return found


def schema_of(objects: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """Find the columns that hold these objects; null where there was nothing but null."""
    kinds: dict[str, str | None] = {}
    for row in objects:
        for name, value in row.items():
            kinds[name] = _common(kinds.get(name), _kind(value))
    return pa.schema([_field(name, kind) for name, kind in kinds.items()])


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Find the columns that hold the rows of several files; text where all were null."""
    kinds: dict[str, str | None] = {}
    for schema in schemas:
        for field in schema:
            kinds[field.name] = _common(kinds.get(field.name), kind_of(field))
    return pa.schema([_field(name, kind or "text") for name, kind in kinds.items()])


def kinds_of(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """Name the columns and what they hold, in words."""
    return tuple((field.name, kind_of(field) or "text") for field in schema)


def schema_from(kinds: Iterable[tuple[str, str]]) -> pa.Schema:
    """Give the columns that kinds_of named."""
    return pa.schema([_field(name, kind) for name, kind in kinds])


def kind_of(field: pa.Field) -> str | None:
    """Name what a column holds, in words; None if nothing is known of it."""
    if (field.metadata or {}).items() >= JSON_MARK.items():
        return JSON
    return next((kind for kind, type_ in TYPES.items() if type_ == field.type), None)


def table_of(rows: Sequence[Object], schema: pa.Schema) -> tuple[pa.Table, dict[int, str]]:
    """Put rows into columns; a value of another type is null.

    Args:
        rows: objects, or why there is none.
        schema: the columns that are wanted; other keys are not read.

    Returns:
        The table, and each row with a fault to the reason.
    """
    faults: dict[int, str] = {}
    columns = {field.name: [None] * len(rows) for field in schema}
    for index, row in enumerate(rows):
        if isinstance(row, PromptError):
            faults[index] = str(row)
            continue
        for field in schema:
            try:
                columns[field.name][index] = _cell(row.get(field.name), field)
            except PromptError as error:
                faults[index] = str(error)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema), faults


def parsed(lines: Iterable[Line]) -> Iterator[Object]:
    """Give the object in each line, or why there is none."""
    for line in lines:
        try:
            yield parse_line(line)
        except PromptError as error:
            yield error


def _kind(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "a boolean"
    kinds = {str: "text", int: "an integer", float: "a number"}
    return kinds.get(type(value), JSON)


def _common(one: str | None, other: str | None) -> str | None:
    if one is None or other is None or one == other:
        return one or other
    return "a number" if {one, other} == {"an integer", "a number"} else JSON


def _field(name: str, kind: str | None) -> pa.Field:
    if kind is None:
        return pa.field(name, pa.null())
    return pa.field(name, TYPES[kind], metadata=JSON_MARK if kind == JSON else None)


def _cell(value: Any, field: pa.Field) -> Any:
    wanted, kind = kind_of(field), _kind(value)
    if kind is None:
        return None
    if wanted == JSON:
        return _text(json.dumps(value, ensure_ascii=False), field.name)
    if kind != wanted and (kind, wanted) != ("an integer", "a number"):
        raise PromptError(
            f"column {field.name!r} is {kind} here, and {wanted} in the first lines; null here"
        )
    if wanted == "text":
        return _text(value, field.name)
    if kind == "an integer" and value not in INT64:
        raise PromptError(f"column {field.name!r} holds an integer of more than 64 bits; null here")
    return float(value) if wanted == "a number" else value


def _text(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"column {name!r} holds a lone surrogate at position {error.start}, half a character"
        ) from None
    return value
