"""The hidden states, and the head's outputs at some of them, that readers want of one step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from model.batch import Segment, adapter_at, segments_of
from model.transfer import ToHost

Tensors = Callable[[Tensor], None]
Head = Callable[[Tensor, Sequence[Segment]], Tensor]
Kind = Literal["sum", "rows", "head"]


class States(NamedTuple):
    """Hidden states of a step.

    Attributes:
        final: [T, hidden_size] after the final norm, or [R, hidden_size] of the rows that are kept.
        inner: [T, hidden_size] inputs of layers, as far as they are wanted.
    """

    final: Tensor
    inner: Mapping[int, Tensor]

    def of(self, layer: int | None) -> Tensor:
        """Return the input of a layer, or the final ones for None."""
        return self.final if layer is None else self.inner[layer]


@dataclass(slots=True)
class Wish:
    """Rows [row, row + count) of the batch, of one layer, and who gets what of them."""

    kind: Kind
    row: int
    count: int
    sink: Tensors
    layer: int | None = None


class StateWishes:
    """Gathers what is wanted, so that one copy to the host brings all of a kind."""

    def __init__(self) -> None:
        self._wishes: dict[Kind, list[Wish]] = {"sum": [], "rows": [], "head": []}
        self._sent: dict[Kind, ToHost] = {}

    def add(self, wish: Wish) -> None:
        """Want something."""
        self._wishes[wish.kind].append(wish)

    @property
    def final(self) -> list[Wish]:
        """Those of final hidden states, which may be computed for some rows only."""
        return [wish for wish in self._all() if wish.layer is None]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose inputs are wanted."""
        return tuple(sorted({wish.layer for wish in self._all() if wish.layer is not None}))

    def send(self, states: States, head: Head, segments: Sequence[Segment] = ()) -> None:
        """Send what is wanted to the host.

        Args:
            states: of the step.
            head: the classification head, [R, hidden_size] to [R, labels], given the segments of
                these R rows.
            segments: of the rows of the final states.
        """

        def rows(kind: Kind) -> list[Tensor]:
            wishes = self._wishes[kind]
            return [states.of(w.layer)[w.row : w.row + w.count] for w in wishes]

        if sums := rows("sum"):
            self._sent["sum"] = ToHost(torch.stack([part.float().sum(0) for part in sums]))
        if parts := rows("rows"):
            self._sent["rows"] = ToHost(torch.cat([part.float() for part in parts]))
        if parts := rows("head"):
            wishes = self._wishes["head"]
            owners = [adapter_at(segments, wish.row) for wish in wishes] if segments else []
            headed = segments_of(owners, [wish.count for wish in wishes]) if owners else ()
            self._sent["head"] = ToHost(head(torch.cat(parts), headed))

    def settle(self) -> None:
        """Wait for all values and hand them out."""
        for kind, values in self._sent.items():
            wishes, arrived = self._wishes[kind], values.wait()
            parts: Sequence[Tensor] = (
                list(arrived)
                if kind == "sum"
                else torch.split(arrived, [wish.count for wish in wishes])
            )
            for wish, part in zip(wishes, parts, strict=True):
                wish.sink(part)

    def _all(self) -> list[Wish]:
        return [wish for wishes in self._wishes.values() for wish in wishes]
