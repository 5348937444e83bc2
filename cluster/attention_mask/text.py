"""Masks side by side in a terminal, in the signs of transformers' AttentionMaskVisualizer."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from model.attention_mask import AttentionMask

from .picture import Picture, shortened

SEEN, UNSEEN = "■", "⬚"
ITSELF = "green"
BETWEEN = "  │  "
WIDEST_LABEL = 24
NARROWEST = 24  # columns that a heading needs
LEAST, MOST = 6, 100  # tokens that are shown, however narrow or wide it is


def lines(picture: Picture, width: int | None) -> Iterator[Text]:
    """Draw all masks, side by side if there is room for them.

    Args:
        picture: what to draw.
        width: columns that there are; None for as many as it takes. Of a text that needs more, or
            that has more than 100 tokens, those in the middle are left out.
    """
    yield Text(picture.title, "bold")
    yield _legend()
    labels = [shortened(label, WIDEST_LABEL) for label in picture.labels]
    margin = max(map(cell_len, labels)) + len(str(len(labels) - 1)) + 3
    room = None if width is None else width - margin
    together = len(picture.masks) if room is None or _share(room, len(picture.masks)) else 1
    shown = _shown(len(labels), MOST if room is None else (_share(room, together) + 1) // 2)
    for start in range(0, len(picture.masks), together):
        some = picture.masks[start : start + together]
        yield Text()
        yield from _Drawing(picture, some, labels, shown, margin).lines()
    if None in shown:
        gap = shown.index(None)
        left_out = f"{gap} to {len(labels) - (len(shown) - gap - 1) - 1}"
        yield Text(
            f"\nTokens {left_out} are left out here; --html FILE.html shows them all.", "dim"
        )
    for note in picture.notes:
        yield Text(f"\n{note}")


def _share(room: int, masks: int) -> int:
    """Tell how many columns each of some masks gets; 0 if those are too few."""
    share = (room - len(BETWEEN) * (masks - 1)) // masks
    return share if share >= NARROWEST or masks == 1 else 0


def _shown(tokens: int, most: int) -> list[int | None]:
    """Choose positions from both ends, with None between them for those that are left out."""
    most = min(max(most, LEAST), MOST)
    if tokens <= most:
        return list(range(tokens))
    tail = (most - 1) // 2
    return [*range(most - 1 - tail), None, *range(tokens - tail, tokens)]


def _legend() -> Text:
    return Text.assemble(
        f"{SEEN} sees   ", (SEEN, ITSELF), f" sees itself (diagonal)   {UNSEEN} does not see"
    )


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Some masks beside each other, and the labels of their rows in the margin before them."""

    picture: Picture
    masks: Sequence[AttentionMask]
    labels: Sequence[str]
    shown: Sequence[int | None]
    margin: int

    @property
    def width(self) -> int:
        return max(2 * len(self.shown) - 1, NARROWEST)

    def lines(self) -> Iterator[Text]:
        yield from self._headings()
        yield from self._positions()
        for position in self.shown:
            parts = [self._row(mask, position) for mask in self.masks]
            yield self._joined(self._label(position), parts)

    def _headings(self) -> Iterator[Text]:
        for texts in zip(*map(self.picture.heading, self.masks), strict=True):
            wrapped = [textwrap.wrap(text, self.width) for text in texts]
            for number in range(max(map(len, wrapped))):
                parts = [Text(part[number] if number < len(part) else "") for part in wrapped]
                yield self._joined("", parts)

    def _positions(self) -> Iterator[Text]:
        """Write the position of each column from top to bottom."""
        digits = len(str(len(self.labels) - 1))
        columns = ["…".rjust(digits) if n is None else str(n).rjust(digits) for n in self.shown]
        for row in zip(*columns, strict=True):
            yield self._joined("", [Text(" ".join(row), "dim")] * len(self.masks))

    def _label(self, position: int | None) -> str:
        if position is None:
            return "…".rjust(self.margin - 2)
        number = str(position)
        label = self.labels[position]
        return f"{label}{number.rjust(self.margin - 2 - cell_len(label))}"

    def _row(self, mask: AttentionMask, query: int | None) -> Text:
        row = Text()
        for place, key in enumerate(self.shown):
            row.append(" " if place else "")
            if query is None or key is None:
                row.append("…" if query is not None else "⋮", "dim")
            elif query == key:
                row.append(SEEN if mask.sees[query, key] else UNSEEN, ITSELF)
            else:
                row.append(SEEN if mask.sees[query, key] else UNSEEN)
        return row

    def _joined(self, label: str, parts: Sequence[Text]) -> Text:
        line = Text(label + " " * (self.margin - cell_len(label)))
        for number, part in enumerate(parts):
            if number:
                line.append(BETWEEN, "dim")
            line.append_text(part)
            if number < len(parts) - 1:
                line.append(" " * (self.width - part.cell_len))
        line.rstrip()
        return line
