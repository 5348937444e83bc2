"""Commands that take groups of options.

Typer reads a command's options off its signature, so options that many commands share would stand
in each of them. Here a command takes dataclasses, and Typer is given the flat signature.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Spread a command's parameters that are dataclasses of options into one flat signature."""
    hints = get_type_hints(command, include_extras=True)
    groups = {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and dataclasses.is_dataclass(hint)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        source = inspect.signature(groups[name]).parameters.values() if name in groups else ()
        parameters += source or [parameter.replace(annotation=hints[name])]
    # Typer takes all of them by name; arguments and options without a default go first.
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    parameters.sort(key=lambda parameter: parameter.default is not parameter.empty)

    def flat(**values: Any) -> None:
        grouped = {
            name: group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**grouped, **values)

    flat.__name__ = command.__name__
    flat.__doc__ = command.__doc__
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flat
