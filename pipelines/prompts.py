"""From a row's columns to its prompt: a template, a text column, or chat messages."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from model.errors import PromptError

from .columns import decoded, is_messages, is_text, texts, value_at
from .job import JobSpec
from .template import Template

Prompt = str | list[Any]


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Where prompts come from: exactly one of the first three is set.

    Attributes:
        template: text with columns in it.
        text_column: the column that holds the text.
        messages_column: the column that holds the messages.
        settings_column: the column that holds settings of the row's own.
        adapter_column: the column that names the row's adapter.
    """

    template: Template | None = None
    text_column: str | None = None
    messages_column: str | None = None
    settings_column: str | None = None
    adapter_column: str | None = None

    @classmethod
    def of(cls, spec: JobSpec) -> "PromptSource":
        """Read it from a job."""
        template = Template.parse(spec.prompt) if spec.prompt else None
        own = spec.settings_column, spec.adapter_column
        return cls(template, spec.prompt_column, spec.messages, *own)

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that it needs."""
        own = self.settings_column, self.adapter_column
        named = (self.text_column, self.messages_column, *own)
        columns = (*(self.template.columns if self.template else ()), *filter(None, named))
        return tuple(dict.fromkeys(columns))

    def fault(self, name: str, kind: pa.DataType) -> str | None:
        """Say why a column of this type can't be used, or None if it can."""
        if name in (self.settings_column, self.adapter_column):
            if is_text(kind):
                return None
            what = "settings are JSON text" if name == self.settings_column else "names are text"
            return f"column {name!r} is {kind}; {what}: write them so first"
        if self.messages_column:
            if is_messages(kind) or is_text(kind):
                return None
            wanted = "list<struct<role, content>>, or the same as JSON text"
        elif self.template:
            if is_text(kind) or pt.is_integer(kind):
                return None
            wanted = "text or an integer"
        elif is_text(kind):
            return None
        else:
            wanted = "text"
        return f"column {name!r} is {kind}; the prompt needs {wanted}: cast it first"

    def prompts(self, table: pa.Table) -> Iterator[Prompt | PromptError]:
        """Give each row's prompt, or why it has none."""
        make = self._reader(table)
        for row in range(table.num_rows):
            try:
                yield make(row)
            except PromptError as error:
                yield error

    def _reader(self, table: pa.Table) -> Callable[[int], Prompt]:
        if self.template:
            return _template_reader(self.template, table)
        if self.text_column:
            return _text_reader(table, self.text_column)
        assert self.messages_column is not None
        if is_text(table.schema.field(self.messages_column).type):
            return _json_reader(table, self.messages_column)
        return _messages_reader(table, self.messages_column)


def _template_reader(template: Template, table: pa.Table) -> Callable[[int], Prompt]:
    columns = {name: _values(table, name) for name in template.columns}

    def read(row: int) -> str:
        return template.render({n: decoded(values[row], n) for n, values in columns.items()})

    return read


def _text_reader(table: pa.Table, name: str) -> Callable[[int], Prompt]:
    values = _values(table, name)

    def read(row: int) -> str:
        text = decoded(values[row], name)
        if not text.strip():
            raise PromptError(f"column {name!r} is empty")
        return text

    return read


def _json_reader(table: pa.Table, name: str) -> Callable[[int], Prompt]:
    values = _values(table, name)

    def read(row: int) -> list[Any]:
        try:
            messages = json.loads(decoded(values[row], name))
        except (ValueError, RecursionError) as error:
            if isinstance(error, PromptError):
                raise
            raise PromptError(f"column {name!r} is not valid JSON: {error}") from None
        if not isinstance(messages, list):
            raise PromptError(f"column {name!r} holds no JSON list of messages")
        return messages

    return read


def _messages_reader(table: pa.Table, name: str) -> Callable[[int], Prompt]:
    column = table.column(name)

    def read(row: int) -> list[Any]:
        return list(value_at(column, row, name))

    return read


def _values(table: pa.Table, name: str) -> Sequence[bytes | None]:
    """Give a column's values as UTF-8 bytes; integers as their digits."""
    column = table.column(name)
    if pt.is_integer(column.type):
        column = column.cast(pa.string())
    return list(texts(column))
