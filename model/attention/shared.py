"""Which queries of a step share keys: sequences whose page tables name the same pages.

A prefix that many sequences have in common lies in one place. Where few queries of each attend,
they read the prefix once for all of them, as rows of one product, and the rest each alone.
(FlashInfer calls it cascade attention: https://flashinfer.ai/2024/02/02/cascade-inference.html.)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.batch import GroupLayout, Ints, PackedBatch, ranges

# A sequence with more queries than these makes good use of what it reads by itself.
MOST_QUERIES = 8


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """Groups of queries that see the same keys.

    Attributes:
        starts: [G + 1] where each group begins in `queries`.
        queries: [M, 2] sequence, and query of it: of each sequence all queries.
        keys: [G, 2] positions [begin, end) of what they share. A window may hide the beginning of
            it from some.
    """

    starts: Ints
    queries: Ints
    keys: Ints


def shared_keys(
    batch: PackedBatch,
    layout: GroupLayout,
    tables: npt.NDArray[np.int32],
    page_size: int,
    *,
    least_queries: int,
    least_saved: int,
) -> SharedKeys:
    """Find the groups.

    Each sequence is in one group at most.

    Args:
        batch: the step.
        layout: the page tables.
        tables: [S, longest] the same, stacked.
        page_size: tokens per page.
        least_queries: of a group that is worth it.
        least_saved: keys that such a group saves by reading once.
    """
    few = np.flatnonzero(batch.query_lens <= MOST_QUERIES)
    starts, queries, keys = [0], [np.zeros((0, 2), np.int64)], []
    for group in _Pages(tables, layout, page_size).groups(few):
        counts = batch.query_lens[group.sequences]
        if counts.sum() < least_queries or group.saved * page_size < least_saved:
            continue
        within = ranges(np.zeros_like(counts), counts)
        queries.append(np.stack((np.repeat(group.sequences, counts), within), axis=1))
        starts.append(starts[-1] + len(within))
        keys.append((group.first * page_size, (group.first + group.count) * page_size))
    return SharedKeys(
        starts=np.array(starts, dtype=np.int64),
        queries=np.concatenate(queries),
        keys=np.array(keys, dtype=np.int64).reshape(-1, 2),
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences that share the pages [first, first + count), counted from position 0."""

    sequences: Ints
    first: int
    count: int

    @property
    def saved(self) -> int:
        """Pages that are not read again."""
        return (len(self.sequences) - 1) * self.count


class _Pages:
    """Page tables in absolute terms: page n has the positions from n * page_size on."""

    def __init__(self, tables: npt.NDArray[np.int32], layout: GroupLayout, page_size: int) -> None:
        self._tables = tables
        self._first = layout.first_key // page_size
        self._end = self._first + np.array([len(table) for table in layout.tables], dtype=np.int64)

    def groups(self, sequences: Ints) -> Iterator[_Group]:
        """Part sequences by what they share."""
        while len(sequences) > 1:
            # Nothing is shared before the window of the sequence that has gone farthest.
            at = int(self._first[sequences].max())
            long_enough = self._end[sequences] > at
            for part in self._parted(sequences[long_enough], at):
                yield from self._tree(part, at)[0]
            sequences = sequences[~long_enough]

    def _tree(self, sequences: Ints, at: int) -> tuple[list[_Group], Ints]:
        """Group sequences that share page `at`; also return one that stays alone, if one does.

        Those that share more than all do are a group of their own where that saves more.
        """
        count = self._common(sequences, at)
        groups: list[_Group] = []
        merged = sequences
        for part in self._parted(sequences[self._end[sequences] > at + count], at + count):
            inner, alone = self._tree(part, at + count)
            inner = [_Group(group.sequences, at, group.count + count) for group in inner]
            if sum(group.saved for group in inner) >= (len(part) - len(alone)) * count:
                groups += inner
                merged = np.setdiff1d(merged, np.setdiff1d(part, alone))
        if len(merged) < 2:
            return groups, merged
        return [*groups, _Group(merged, at, count)], merged[:0]

    def _parted(self, sequences: Ints, at: int) -> Iterator[Ints]:
        """Yield the sequences that share page `at` with another, those of one page together."""
        pages = self._tables[sequences, at - self._first[sequences]]
        ordered = np.sort(pages)
        for page in dict.fromkeys(ordered[1:][ordered[1:] == ordered[:-1]].tolist()):
            yield sequences[pages == page]

    def _common(self, sequences: Ints, at: int) -> int:
        """Return how many pages from `at` on all of them share."""
        length = int(self._end[sequences].min()) - at
        columns = (at - self._first[sequences])[:, None] + np.arange(length)
        tables = self._tables[sequences[:, None], columns]
        equal = (tables == tables[0]).all(axis=0)
        return length if equal.all() else int(equal.argmin())
