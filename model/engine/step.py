"""One step: chunks become a packed batch, readers ask for rows of it and are given their values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.batch import GroupLayout, LayerKind, PackedBatch
from model.hybrid_cache import HybridCache
from model.sampling import SampledToken, SamplingRow

from .queries import LogitAnswers, LogitQueries
from .sequence import Chunk

Floats = Callable[[list[float]], None]
Tensors = Callable[[Tensor], None]


class Drawer(Protocol):
    """Something that wants a token drawn."""

    def sampling_row(self) -> SamplingRow:
        """Say how."""

    def accept(self, token: SampledToken) -> None:
        """Take it."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rows [row, row + count) of the batch, and who gets their values."""

    row: int
    count: int
    sink: Tensors


class StepPlan:
    """The values that readers want of one step, gathered so that each is computed once."""

    def __init__(self) -> None:
        self.logit_rows: list[int] = []
        self._index: dict[int, int] = {}
        self._draws: list[tuple[int, Drawer]] = []
        self._targets: list[tuple[int, Sequence[int], Floats]] = []
        self._hidden: list[_Slice] = []
        self._head: list[_Slice] = []

    @property
    def num_draws(self) -> int:
        """Tokens that are drawn in this step."""
        return len(self._draws)

    def draw(self, row: int, drawer: Drawer) -> None:
        """Draw a token from the logits of a row."""
        self._draws.append((self._logits_of(row), drawer))

    def logprobs(self, row: int, targets: Sequence[int], sink: Floats) -> None:
        """Report log p(target) for each of several targets at one row."""
        self._targets.append((self._logits_of(row), targets, sink))

    def hidden(self, row: int, count: int, sink: Tensors) -> None:
        """Report final hidden states [count, hidden_size]."""
        self._hidden.append(_Slice(row, count, sink))

    def head(self, row: int, count: int, sink: Tensors) -> None:
        """Report the classification head's outputs [count, labels]."""
        self._head.append(_Slice(row, count, sink))

    def queries(self) -> LogitQueries | None:
        """Return what is asked of the logits; None where nothing is."""
        if not self.logit_rows:
            return None
        at = [index for index, targets, _ in self._targets for _ in targets]
        tokens = [token for _, targets, _ in self._targets for token in targets]
        return LogitQueries(
            draws_at=np.array([index for index, _ in self._draws], dtype=np.int64),
            draws=[drawer.sampling_row() for _, drawer in self._draws],
            targets_at=np.array(at, dtype=np.int64),
            targets=np.array(tokens, dtype=np.int64),
        )

    def settle(
        self, hidden: Tensor, answers: LogitAnswers | None, head: Callable[[Tensor], Tensor]
    ) -> None:
        """Hand every reader its values.

        Args:
            hidden: [T, hidden_size] final hidden states of the step.
            answers: to `queries`.
            head: the classification head, [R, hidden_size] to [R, labels].
        """
        if answers is not None:
            start = 0
            for _, targets, sink in self._targets:
                sink(answers.logprobs[start : start + len(targets)])
                start += len(targets)
            for (_, drawer), token in zip(self._draws, answers.tokens, strict=True):
                drawer.accept(token)
        for wanted in self._hidden:
            wanted.sink(hidden[wanted.row : wanted.row + wanted.count])
        if self._head:
            rows = torch.cat([hidden[w.row : w.row + w.count] for w in self._head])
            counts = [w.count for w in self._head]
            for wanted, scores in zip(self._head, torch.split(head(rows), counts), strict=True):
                wanted.sink(scores)

    def _logits_of(self, row: int) -> int:
        index = self._index.setdefault(row, len(self.logit_rows))
        if index == len(self.logit_rows):
            self.logit_rows.append(row)
        return index


def pack(chunks: Sequence[Chunk], cache: HybridCache, logit_rows: Sequence[int]) -> PackedBatch:
    """Make room for the chunks in the cache and lay their tokens end to end."""
    copies: list[tuple[int, int]] = []
    token_ids: list[int] = []
    positions: list[int] = []
    slots: dict[LayerKind, list[int]] = {kind: [] for kind in cache.windows}
    for chunk in chunks:
        sequence, start = chunk.sequence, chunk.start
        copies += cache.extend(sequence.cache, chunk.count)
        token_ids += sequence.tokens[start : start + chunk.count]
        positions += range(start, start + chunk.count)
        for kind in slots:
            slots[kind] += cache.slots(sequence.cache, kind, start)
    return PackedBatch(
        token_ids=np.array(token_ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        query_lens=np.array([chunk.count for chunk in chunks], dtype=np.int64),
        key_lens=np.array([chunk.start + chunk.count for chunk in chunks], dtype=np.int64),
        groups={kind: _layout(chunks, cache, kind, slots[kind]) for kind in slots},
        copies=tuple(copies),
        logit_rows=np.array(logit_rows, dtype=np.int64),
    )


def _layout(
    chunks: Sequence[Chunk], cache: HybridCache, kind: LayerKind, slots: list[int]
) -> GroupLayout:
    tables = [chunk.sequence.cache.tables[kind] for chunk in chunks]
    return GroupLayout(
        slots=np.array(slots, dtype=np.int64),
        tables=tuple(table.array() for table in tables),
        first_key=np.array([table.dropped for table in tables], dtype=np.int64) * cache.page_size,
    )
