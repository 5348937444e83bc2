"""The columns of a job: which it reads, and what its output looks like, fixed before it runs."""

import io
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import is_text
from .errors import InputError, listed
from .inputs import Footer
from .prompts import PromptSource
from .tasks import JobTasks

Keep = Literal["*"] | tuple[str, ...]

SOURCE_FIELDS = (pa.field("source_file", pa.string()), pa.field("source_row", pa.int64()))
TOKEN_FIELD = pa.field("prompt_tokens", pa.int32())
ERROR_FIELDS = (pa.field("error_class", pa.string()), pa.field("error", pa.string()))


def read_columns(source: PromptSource, keep: Keep) -> tuple[str, ...] | None:
    """Name the input columns that are read; None is all of them."""
    return None if keep == "*" else tuple(dict.fromkeys((*source.columns, *keep)))


def result_fields(tasks: JobTasks) -> list[pa.Field]:
    """Give the columns that a job adds to the kept ones."""
    return [*SOURCE_FIELDS, TOKEN_FIELD, *tasks.fields, *ERROR_FIELDS]


def check_columns(footers: Sequence[Footer], source: PromptSource, keep: Keep) -> pa.Schema:
    """Check the schemas of all files against the job, and each other.

    Returns:
        The kept columns, with the types they have in the output; all can be null.

    Raises:
        InputError: naming every file and column that can't be used.
    """
    kept = _kept(footers, keep)
    names = tuple(dict.fromkeys((*source.columns, *(kept if keep == "*" else keep))))
    faults = [
        f"{footer.file.name}: {fault}"
        for footer in footers
        for fault in _faults(footer.schema, names, source, kept)
    ]
    if faults:
        raise InputError(listed("the input's columns are not what the job needs:", faults))
    return pa.schema(list(kept.values()))


def output_schema(kept: pa.Schema, tasks: JobTasks) -> pa.Schema:
    """Put kept and added columns together.

    Raises:
        InputError: a kept column has the name of an added one, or a type that can't be written.
    """
    added = result_fields(tasks)
    clashes = sorted({field.name for field in added} & set(kept.names))
    if clashes:
        raise InputError(
            f"kept column {clashes[0]!r} has the name of a result column: list the columns to keep "
            f"without it, or rename it in the input{_others(clashes)}"
        )
    schema = pa.schema([*kept, *added])
    for field in schema:
        try:
            pq.write_table(pa.table([pa.nulls(0, field.type)], pa.schema([field])), io.BytesIO())
        except (pa.ArrowException, NotImplementedError) as error:
            raise InputError(f"column {field.name!r} can't be kept: {error}") from None
    return schema


def _others(names: list[str]) -> str:
    return f" (the same goes for {', '.join(names[1:])})" if names[1:] else ""


def _kept(footers: Sequence[Footer], keep: Keep) -> dict[str, pa.Field]:
    """Find the kept columns' types: the first file's, or large_string where texts differ."""
    kept: dict[str, pa.Field] = {}
    for footer in footers:
        for field in footer.schema:
            if keep != "*" and field.name not in keep:
                continue
            known = kept.setdefault(field.name, _nullable(field))
            if known.type != field.type and is_text(known.type) and is_text(field.type):
                kept[field.name] = pa.field(field.name, pa.large_string())
    return {name: kept[name] for name in keep if name in kept} if keep != "*" else kept


def _nullable(field: pa.Field) -> pa.Field:
    """Drop what only made sense in the input file: NOT NULL, and its field's number."""
    metadata = {k: v for k, v in (field.metadata or {}).items() if k != b"PARQUET:field_id"}
    return pa.field(field.name, field.type, nullable=True, metadata=metadata or None)


def _faults(
    schema: pa.Schema, names: Sequence[str], source: PromptSource, kept: dict[str, pa.Field]
) -> Iterator[str]:
    for name in names:
        found = schema.get_all_field_indices(name)
        if len(found) != 1:
            yield f"column {name!r} is there twice" if found else _missing(name, schema.names)
            continue
        kind = schema.field(name).type
        if name in source.columns and (fault := source.fault(name, kind)):
            yield fault
        wanted = kept[name].type if name in kept else kind
        if kind != wanted and not (is_text(kind) and is_text(wanted)):
            yield f"column {name!r} is {kind}, but {wanted} in other files"


def _missing(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names[:20]) or 'none'}"
    return f"there is no column {name!r}; {hint}"
