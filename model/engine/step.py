"""One step: chunks become a packed batch, readers ask for rows of it and are given their values."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from model.batch import (
    BASE,
    GroupLayout,
    Ints,
    LayerKind,
    PackedBatch,
    Segment,
    ranges,
)
from model.constrain import Guide, Masks
from model.hybrid_cache import HybridCache
from model.sampling import SampledToken, SamplingRow

from .queries import LogitAnswers, LogitQueries
from .sequence import Chunk
from .states import Head, States, StateWishes, Tensors, Wish

Floats = Callable[[list[float]], None]
Tops = Callable[[tuple[tuple[int, float], ...]], None]


class Drawer(Protocol):
    """Something that wants a token drawn."""

    def sampling_row(self) -> SamplingRow:
        """Say how."""

    def accept(self, token: SampledToken) -> None:
        """Take it."""

    @property
    def done(self) -> bool:
        """Whether it takes no more: it ended while this token was already being drawn."""

    @property
    def guide(self) -> Guide | None:
        """What says which tokens it may have; None is all."""


class StepPlan:
    """The values that readers want of one step, gathered so that each is computed once."""

    def __init__(self) -> None:
        self.logit_rows: list[int] = []
        self._index: dict[int, int] = {}
        self._draws: list[tuple[int, Drawer]] = []
        self._ranked: list[tuple[int, SamplingRow, Tops]] = []
        self._targets: list[tuple[int, Sequence[int], Floats]] = []
        self._states = StateWishes()

    def draw(self, row: int, drawer: Drawer) -> None:
        """Draw a token from the logits of a row."""
        self._draws.append((self._logits_of(row), drawer))

    def likeliest(self, row: int, settings: SamplingRow, sink: Tops) -> None:
        """Report the `settings.params.logprobs` likeliest tokens of a row; nothing is drawn."""
        self._ranked.append((self._logits_of(row), settings, sink))

    def logprobs(self, row: int, targets: Sequence[int], sink: Floats) -> None:
        """Report log p(target) for each of several targets at one row."""
        self._targets.append((self._logits_of(row), targets, sink))

    def hidden_sum(self, row: int, count: int, sink: Tensors, layer: int | None = None) -> None:
        """Report the sum [hidden_size] float32 of the hidden states of several rows.

        They are the inputs of a layer; None is the final ones.
        """
        self._states.add(Wish("sum", row, count, sink, layer))

    def hidden(self, row: int, count: int, sink: Tensors, layer: int | None = None) -> None:
        """Report the hidden states [count, hidden_size] float32 of several rows, as above."""
        self._states.add(Wish("rows", row, count, sink, layer))

    def head(self, row: int, count: int, sink: Tensors) -> None:
        """Report the classification head's outputs [count, labels]."""
        self._states.add(Wish("head", row, count, sink))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose inputs are wanted."""
        return self._states.layers

    def guides(self) -> list[Guide]:
        """Return the guides of the draws that have one, in the order of the draws."""
        guides = [drawer.guide for _, drawer in self._draws]
        return [guide for guide in guides if guide is not None]

    def queries(self, masks: Masks | None = None) -> LogitQueries | None:
        """Return what is asked of the logits; None where nothing is.

        Args:
            masks: for `guides`, which may still be looked for.
        """
        if not self.logit_rows:
            return None
        draws = [(index, drawer.sampling_row()) for index, drawer in self._draws]
        if masks is not None:
            guided = (place for place, (_, drawer) in enumerate(self._draws) if drawer.guide)
            for place, mask in zip(guided, masks.rows_GB, strict=True):
                draws[place][1].mask = mask
        at = [index for index, targets, _ in self._targets for _ in targets]
        tokens = [token for _, targets, _ in self._targets for token in targets]
        # The sampler ranks tokens where it draws one. Draws go first: `places` counts them.
        draws += [(index, settings) for index, settings, _ in self._ranked]
        return LogitQueries(
            draws_at=np.array([index for index, _ in draws], dtype=np.int64),
            draws=[settings for _, settings in draws],
            targets_at=np.array(at, dtype=np.int64),
            targets=np.array(tokens, dtype=np.int64),
            masks=masks,
        )

    def keep_tails(self, counts: Sequence[int]) -> Ints | None:
        """Turn to the rows that are wanted: of each chunk, those from its first wanted row on.

        Afterwards all rows are counted among these. Comes after everything was asked for, before
        `logit_rows` and `queries` are read.

        Args:
            counts: [S] rows of each chunk.

        Returns:
            [S] how many of each chunk's last rows are kept; None if all are, and nothing changes.
        """
        slices = self._states.final
        if len(self.logit_rows) == sum(counts):  # no row is asked for twice
            return None
        wanted = [*self.logit_rows, *[part.row for part in slices]]
        ends = list(accumulate(counts))
        firsts = ends.copy()
        chunk_of = [bisect_right(ends, row) for row in wanted]
        for row, chunk in zip(wanted, chunk_of, strict=True):
            firsts[chunk] = min(firsts[chunk], row)
        tails = [end - first for end, first in zip(ends, firsts, strict=True)]
        if tails == list(counts):
            return None
        kept = list(accumulate(tails))
        moved = [
            row + kept[chunk] - ends[chunk] for row, chunk in zip(wanted, chunk_of, strict=True)
        ]
        self.logit_rows = moved[: len(self.logit_rows)]
        for part, row in zip(slices, moved[len(self.logit_rows) :], strict=True):
            part.row = row
        return np.array(tails, dtype=np.int64)

    def places(self) -> dict[object, int]:
        """Return the place of each drawer's draw among all of them."""
        return {drawer: place for place, (_, drawer) in enumerate(self._draws)}

    def send(self, states: States, head: Head, segments: Sequence[Segment] = ()) -> None:
        """Send what is wanted of the hidden states to the host; see StateWishes.send."""
        self._states.send(states, head, segments)

    def settle(self, answers: LogitAnswers | None) -> int:
        """Wait for all values and hand them to the readers.

        Args:
            answers: to `queries`.

        Returns:
            How many of the drawn tokens were accepted.
        """
        accepted = 0
        if answers is not None:
            logprobs, start = answers.logprobs(), 0
            for _, targets, take in self._targets:
                take(logprobs[start : start + len(targets)])
                start += len(targets)
            tokens = iter(answers.tokens())
            for (_, drawer), token in zip(self._draws, tokens, strict=False):
                if not drawer.done:
                    drawer.accept(token)
                    accepted += 1
            for (_, _, rank), token in zip(self._ranked, tokens, strict=True):
                rank(token.top)
        self._states.settle()
        return accepted

    def _logits_of(self, row: int) -> int:
        index = self._index.setdefault(row, len(self.logit_rows))
        if index == len(self.logit_rows):
            self.logit_rows.append(row)
        return index


def by_adapter(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Order chunks so that those of an adapter are neighbours, after those that have none."""
    return sorted(chunks, key=lambda chunk: chunk.sequence.adapter)


def pack(
    chunks: Sequence[Chunk],
    cache: HybridCache,
    logit_rows: Sequence[int],
    tail_lens: Ints | None = None,
    inner: tuple[int, ...] = (),
    depth: int | None = None,
) -> PackedBatch:
    """Make room for the chunks in the cache and lay their tokens end to end.

    Args:
        chunks: of the step, ordered as by `by_adapter`.
        cache: of their sequences.
        logit_rows: as in the batch, and so are the others.
        tail_lens: likewise.
        inner: likewise.
        depth: likewise.
    """
    copies: list[tuple[int, int]] = []
    token_ids: list[int] = []
    carried: list[tuple[int, int]] = []
    for chunk in chunks:
        sequence = chunk.sequence
        copies += cache.extend(sequence.cache, chunk.count)
        token_ids += sequence.tokens[chunk.start : chunk.end]
        if sequence.carried is not None:
            carried.append((len(token_ids) - 1, sequence.carried))
    starts_S = np.array([chunk.start for chunk in chunks], dtype=np.int64)
    counts_S = np.array([chunk.count for chunk in chunks], dtype=np.int64)
    positions_T = ranges(starts_S, counts_S)
    places = np.divmod(positions_T, cache.page_size)
    adapters = tuple(chunk.sequence.adapter for chunk in chunks)
    return PackedBatch(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=positions_T,
        query_lens=counts_S,
        key_lens=starts_S + counts_S,
        groups={
            kind: _layout(chunks, kind, counts_S, *places, cache.page_size)
            for kind in cache.windows
        },
        tail_lens=tail_lens,
        copies=tuple(copies),
        logit_rows=np.array(logit_rows, dtype=np.int64),
        inner=inner,
        depth=depth,
        carried=tuple(carried),
        adapters=adapters if adapters[-1] != BASE else None,
    )


def _layout(
    chunks: Sequence[Chunk],
    kind: LayerKind,
    counts_S: Ints,
    pages_T: Ints,
    offsets_T: Ints,
    page_size: int,
) -> GroupLayout:
    """Find each token's slot: it stands in this page of its sequence, at this offset."""
    tables = [chunk.sequence.cache.tables[kind] for chunk in chunks]
    pages = tuple([table.array() for table in tables])
    dropped_S = np.array([table.dropped for table in tables], dtype=np.int64)
    # All tables end to end: where page 0 of each sequence would stand, had none been dropped.
    lengths_S = np.array([len(table) for table in pages], dtype=np.int64)
    origins_S = np.cumsum(lengths_S) - lengths_S - dropped_S
    page_ids_T = np.concatenate(pages)[np.repeat(origins_S, counts_S) + pages_T]
    return GroupLayout(
        slots=page_ids_T * page_size + offsets_T, tables=pages, first_key=dropped_S * page_size
    )
