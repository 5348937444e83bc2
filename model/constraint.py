"""What an answer has to be: JSON of a schema, any JSON object, text of a regex, one of some texts.

This is the description alone, checked for its size and form; `constrain` compiles it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ConstraintKind = Literal["json_schema", "json_object", "regex", "choice"]

MAX_SCHEMA_BYTES = 128 << 10
MAX_SCHEMA_DEPTH = 64
MAX_REGEX_BYTES = 16 << 10
MAX_CHOICES = 4096
MAX_CHOICE_BYTES = 256 << 10

# llguidance's own key: it could allow what is no JSON, or have keywords ignored.
REFUSED_KEY = "x-guidance"


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint: equal ones mean the same, so that they are compiled once.

    Attributes:
        kind: what `text` is.
        text: a schema as JSON, a regular expression, or the choices; empty for json_object.
    """

    kind: ConstraintKind
    text: str | tuple[str, ...] = ""


def schema_text(schema: object) -> str:
    """Write a JSON schema as compact JSON; the order of its keys is kept, for it has a meaning.

    Args:
        schema: a map, or the same as JSON text.

    Raises:
        ValueError: it is no JSON object, too large or too deep.
    """
    if isinstance(schema, str):
        schema = _parsed(schema)
    if not isinstance(schema, Mapping):
        raise ValueError(  # noqa: TRY004 - pydantic reports this one
            f"must be a JSON schema, a map, got {_short(schema)}"
        )
    if _deeper_than(schema, MAX_SCHEMA_DEPTH):
        raise ValueError(f"must not be nested more than {MAX_SCHEMA_DEPTH} deep")
    if REFUSED_KEY in schema:
        raise ValueError(f"must not hold {REFUSED_KEY!r}")
    try:
        text = json.dumps(_with_text_keys(schema), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"must hold what JSON has and nothing else: {error}") from None
    _check_size(text, MAX_SCHEMA_BYTES)
    return text


def check_regex(regex: str) -> str:
    """Return the expression; what it means is found out when it is compiled.

    Raises:
        ValueError: it is empty or too large.
    """
    if not regex:
        raise ValueError("must not be empty")
    _check_size(regex, MAX_REGEX_BYTES)
    return regex


def check_choices(choices: Sequence[str]) -> None:
    """Raise ValueError if there are none or too many, an empty one, or one twice."""
    if not choices or not all(choices):
        raise ValueError("must hold at least one text, and none that is empty")
    if len(choices) > MAX_CHOICES:
        raise ValueError(f"must hold at most {MAX_CHOICES} texts, got {len(choices)}")
    if len(set(choices)) != len(choices):
        twice = next(text for text in choices if choices.count(text) > 1)
        raise ValueError(f"holds {_short(twice)} more than once")
    _check_size("".join(choices), MAX_CHOICE_BYTES)


def _parsed(text: str) -> object:
    _check_size(text, MAX_SCHEMA_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"is not valid JSON: {reason}") from None


def _deeper_than(value: object, depth: int) -> bool:
    """Whether maps and lists are nested more than `depth` deep, without recursion."""
    level = [value]
    for _ in range(depth):
        level = [child for item in level for child in _children(item) if _children(child)]
    return bool(level)


def _children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _with_text_keys(value: Any) -> Any:
    """Refuse keys that YAML turns into something else: `on`, `1`, dates."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no text: put it into quotes")
        return {key: _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list | tuple) else value


def _check_size(text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    if "\0" in text:
        raise ValueError("must not hold NUL")
    if size > most:
        raise ValueError(f"must have at most {most} bytes, got {size}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
