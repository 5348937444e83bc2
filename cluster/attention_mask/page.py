"""Masks as one HTML page that works without a network.

The template escapes every value, and the page's own policy lets nothing be loaded or run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len

from cluster.templating import page_template
from model.attention_mask import AttentionMask
from pipelines.errors import StorageError

from .picture import Picture, shortened

CELL = 14  # pixels, as everything here
LETTER = 7  # a column of the fixed-width font
WIDEST_LABEL = 24
TOP = 22
# Numbers of three digits are wider than a cell.
ALL_NUMBERED = 100
SOME_NUMBERED = 5


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring keys that one query sees."""

    x: int
    y: int
    width: int
    title: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """One mask, ready to be drawn."""

    heading: tuple[str, str, str]
    description: str
    runs: list[Run]


def write_page(picture: Picture, target: Path) -> Path:
    """Write the page, and give its path.

    Raises:
        StorageError: the file can't be written.
    """
    try:
        target.write_text(render(picture), encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error}") from error
    return target


def render(picture: Picture) -> str:
    """Put the page together."""
    tokens = len(picture.ids)
    labels = [shortened(label, WIDEST_LABEL) for label in picture.labels]
    numbered = 1 if tokens <= ALL_NUMBERED else SOME_NUMBERED
    return page_template("attention_mask.html.j2").render(
        title=picture.title,
        text=picture.text,
        notes=picture.notes,
        labels=labels,
        numbers=range(0, tokens, numbered),
        size=tokens * CELL,
        cell=CELL,
        left=(max(map(cell_len, labels)) + len(str(tokens)) + 3) * LETTER,
        top=TOP,
        letter=LETTER,
        number_width=(len(str(tokens)) + 1) * LETTER,
        grid="".join(f"M0 {at}H{tokens * CELL}M{at} 0V{tokens * CELL}" for at in _lines(tokens)),
        drawings=[_drawing(picture, mask) for mask in picture.masks],
        rows=list(_rows(picture)),
    )


def _lines(tokens: int) -> Iterator[int]:
    yield from (CELL * number for number in range(tokens + 1))


def _drawing(picture: Picture, mask: AttentionMask) -> Drawing:
    heading = picture.heading(mask)
    runs = [
        Run(start * CELL, query * CELL, (stop - start) * CELL, _told(picture, mask, query))
        for query in range(len(picture.ids))
        for start, stop in mask.runs(query)
    ]
    seen = int(mask.sees.sum())
    description = f"{'. '.join(heading)}. {seen:,} of {mask.sees.size:,} places are seen."
    return Drawing(heading, description, runs)


def _told(picture: Picture, mask: AttentionMask, query: int) -> str:
    return f"{query} {picture.labels[query]} sees {_ranges(mask, query)}"


def _rows(picture: Picture) -> Iterator[tuple[int, str, int, list[str]]]:
    """Give the table of what each token sees: position, label, id, and what each mask shows it."""
    for query, (label, token_id) in enumerate(zip(picture.labels, picture.ids, strict=True)):
        yield query, label, token_id, [_ranges(mask, query) for mask in picture.masks]


def _ranges(mask: AttentionMask, query: int) -> str:
    return ", ".join(
        f"{start}" if stop - start == 1 else f"{start} to {stop - 1}"
        for start, stop in mask.runs(query)
    )
