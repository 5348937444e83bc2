"""What `/set` changes: how answers are drawn."""

import json
from collections.abc import Mapping
from typing import Any

from model.errors import ParameterError
from model.params import SamplingParams

TEXTS = ("stop", "regex")
NUMBERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
NAMES = (*NUMBERS, *TEXTS)
DEFAULT = "none"


def with_setting(settings: Mapping[str, Any], words: str) -> dict[str, Any]:
    """Change one setting as in `temperature 0.7`; with `none` it gets its default back.

    Raises:
        ParameterError: there is no such setting, or it can't have this value.
    """
    name, _, value = words.partition(" ")
    if name not in NAMES:
        raise ParameterError(f"there is no setting {name!r}; there are {', '.join(NAMES)}")
    if not value.strip():
        raise ParameterError(f"give {name} a value, or {DEFAULT} for its default")
    changed = {other: kept for other, kept in settings.items() if other != name}
    if value.strip() != DEFAULT:
        changed[name] = value.strip() if name in TEXTS else _number(name, value)
    checked(changed)
    return changed


def checked(settings: Mapping[str, Any]) -> None:
    """Check that answers can be drawn so.

    Raises:
        ParameterError: naming the setting at fault.
    """
    try:
        SamplingParams(**settings)
    except ParameterError as error:
        raise ParameterError(str(error).removeprefix("SamplingParams: ")) from None


def described(settings: Mapping[str, Any]) -> str:
    """Write all settings on one line."""
    defaults = SamplingParams()
    shown = {name: settings.get(name, getattr(defaults, name)) for name in NAMES}
    if "max_tokens" not in settings:
        shown["max_tokens"] = "all that there is room for"
    others = {name: value for name, value in settings.items() if name not in NAMES}
    return ", ".join(f"{name} {_spelled(value)}" for name, value in (shown | others).items())


def _number(name: str, value: str) -> int | float:
    try:
        number = json.loads(value)
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ParameterError(f"{name} is a number, not {value.strip()!r}")
    return number


def _spelled(value: Any) -> str:
    return DEFAULT if value is None or value == () else str(value)
