r"""Prompts with columns in them: `Summarise this ticket:\n{body}`."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Self


@dataclass(frozen=True, slots=True)
class Template:
    """Text pieces and the columns between them.

    Only `{column}` means something, and `{{` and `}}` stand for braces: no attributes, no indices,
    no conversions, so a template reaches nothing but the row's values.

    Attributes:
        pieces: (text, column) pairs; the column is None after the last text.
    """

    pieces: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template.

        Raises:
            ValueError: unbalanced braces, or something other than a column's name between them.
        """
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ and }}}} for braces") from None
        pieces = []
        for literal, name, spec, conversion in parsed:
            if name is not None and (not name or spec or conversion or set(name) & set("{}[]")):
                raise ValueError("only {column} can stand in braces; write {{ and }} for braces")
            pieces.append((literal, name))
        template = cls(tuple(pieces))
        if not template.columns:
            raise ValueError("it names no column; put one in braces, as in {body}")
        return template

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names, each once, in the order of their first use."""
        return tuple(dict.fromkeys(name for _, name in self.pieces if name is not None))

    def render(self, values: Mapping[str, str]) -> str:
        """Put a row's values in."""
        return "".join(
            text + (values[name] if name is not None else "") for text, name in self.pieces
        )
