"""One step's work as plain arrays: what the scheduler decided, ready for every rank.

T tokens of S sequences lie end to end with no padding. A sequence's chunk of new tokens is its
queries; its keys are everything it has cached and the chunk itself, found through page tables.
There is one table per layer group, because sliding layers let go of pages that full layers keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

LayerKind = Literal["full_attention", "sliding_attention"]
Ints = npt.NDArray[np.int64]
# The number of no adapter.
BASE = -1


class Segment(NamedTuple):
    """Rows [start, stop) of a step, all of them of requests with this adapter."""

    adapter: int
    start: int
    stop: int


def segments_of(adapters_S: Sequence[int], counts_S: Sequence[int]) -> tuple[Segment, ...]:
    """Join the rows of sequences that have the same adapter.

    Args:
        adapters_S: of each sequence, ascending; so those without one come first.
        counts_S: rows of each.

    Returns:
        The segments in order, up to the last row; rows without an adapter are in none.
    """
    segments, stop = [], 0
    for adapter, group in groupby(zip(adapters_S, counts_S, strict=True), key=lambda pair: pair[0]):
        start, stop = stop, stop + sum(count for _, count in group)
        if adapter != BASE and stop > start:
            segments.append(Segment(adapter, start, stop))
    return tuple(segments)


def adapter_at(segments: Sequence[Segment], row: int) -> int:
    """Return the number of a row's adapter."""
    return next((s.adapter for s in segments if s.start <= row < s.stop), BASE)


def ranges(starts: Ints, counts: Ints) -> Ints:
    """Return the ranges [start, start + count), end to end."""
    before = np.cumsum(counts) - counts
    joined: Ints = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    return joined


def are_all(rows: Ints, count: int) -> bool:
    """Whether these are the rows [0, count) in their order, so that nothing has to be picked."""
    return len(rows) == count and bool((rows == np.arange(count)).all())


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """Where one layer group keeps the keys and values of this step's sequences.

    Attributes:
        slots: [T] the slot (page * page_size + offset) that each new token is written to.
        tables: S arrays of page ids in the order of positions. Written before they are read: the
            pages hold the chunk's own keys too.
        first_key: [S] position of the first slot of each table's first page; 0 for full layers.
    """

    slots: Ints
    tables: tuple[Ints, ...]
    first_key: Ints


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The tokens of one step.

    Attributes:
        token_ids: [T]
        positions: [T] position of each token in its sequence, from 0.
        query_lens: [S] new tokens of each sequence, at least 1.
        key_lens: [S] tokens of each sequence including the new ones; the last new token of
            sequence s stands at position key_lens[s] - 1.
        groups: a layout for each kind of layer that the model has.
        tail_lens: [S] last tokens of each sequence, maybe none, whose final hidden states are
            needed; the last layer computes no others. None for all.
        copies: (from, to) page pairs to copy, in this order, before anything is written.
        logit_rows: [R] rows whose logits over the vocabulary are needed, among those of the tails.
        inner: layers whose inputs [T, D] are wanted besides the final hidden states.
        depth: how many layers to compute, if not all: then nobody wants the final ones.
        carried: (row, draw) pairs: the host does not know the token of this row yet. It is the one
            that was drawn in the step before, at this place among its draws.
        adapters: [S] number of each sequence's adapter, ascending; BASE where it has none. None
            where none has one.
    """

    token_ids: Ints
    positions: Ints
    query_lens: Ints
    key_lens: Ints
    groups: dict[LayerKind, GroupLayout]
    tail_lens: Ints | None = None
    copies: tuple[tuple[int, int], ...] = ()
    logit_rows: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    inner: tuple[int, ...] = ()
    depth: int | None = None
    carried: tuple[tuple[int, int], ...] = ()
    adapters: tuple[int, ...] | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The rows in [0, T) that have an adapter."""
        return segments_of(self.adapters, self.query_lens.tolist()) if self.adapters else ()

    @property
    def tail_segments(self) -> tuple[Segment, ...]:
        """Those among the rows of the tails."""
        assert self.tail_lens is not None
        return segments_of(self.adapters, self.tail_lens.tolist()) if self.adapters else ()

    @property
    def tail_rows(self) -> Ints:
        """Rows in [0, T) of the tails, in their order."""
        assert self.tail_lens is not None
        return ranges(np.cumsum(self.query_lens) - self.tail_lens, self.tail_lens)

    def tails(self, kind: LayerKind) -> "PackedBatch":
        """Return the tails as a batch of their own, of the sequences that have one.

        Keys are those of the whole step; nothing is to be written, so there are no slots.
        """
        assert self.tail_lens is not None
        some = np.flatnonzero(self.tail_lens)
        layout, rows, nothing = self.groups[kind], self.tail_rows, np.zeros(0, dtype=np.int64)
        return PackedBatch(
            token_ids=self.token_ids[rows],
            positions=self.positions[rows],
            query_lens=self.tail_lens[some],
            key_lens=self.key_lens[some],
            groups={
                kind: GroupLayout(
                    slots=nothing,
                    tables=tuple(layout.tables[index] for index in some.tolist()),
                    first_key=layout.first_key[some],
                )
            },
        )
