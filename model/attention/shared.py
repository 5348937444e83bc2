"""Which queries of a step share keys: sequences whose page tables name the same pages.

A prefix that many sequences have in common lies in one place. Where few queries of each attend,
they read the prefix once for all of them, as rows of one product, and the rest each alone.
(FlashInfer calls it cascade attention: https://flashinfer.ai/2024/02/02/cascade-inference.html.)
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.batch import GroupLayout, Ints, PackedBatch, ranges

# A sequence with more queries than these makes good use of what it reads by itself.
MOST_QUERIES = 8
_NONE = np.zeros((0, 2), np.int64)


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
        page_size: tokens per page.
        least_queries: of a group that is worth it.
        least_saved: keys that such a group saves by reading once.
    """
    few = np.flatnonzero(batch.query_lens <= MOST_QUERIES).tolist()
    starts, queries, keys = [0], [_NONE], []
    for group in _Pages(layout, page_size).groups(few):
        counts = batch.query_lens[group.sequences]
        if counts.sum() < least_queries or group.saved * page_size < least_saved:
            continue
        within = ranges(np.zeros_like(counts), counts)
        queries.append(np.stack((np.repeat(group.sequences, counts), within), axis=1))
        starts.append(starts[-1] + len(within))
        keys.append((group.first * page_size, (group.first + group.count) * page_size))
    return SharedKeys(
        starts=np.array(starts, dtype=np.int64),
        queries=np.concatenate(queries) if keys else _NONE,
        keys=np.array(keys, dtype=np.int64) if keys else _NONE,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences that share the pages [first, first + count), counted from position 0."""

    sequences: list[int]
    first: int
    count: int

    @property
    def saved(self) -> int:
        """Pages that are not read again."""
        return (len(self.sequences) - 1) * self.count


class _Pages:
    """Page tables in absolute terms: page n has the positions from n * page_size on.

    In plain Python: mostly there is nothing to find, among few sequences.
    """

    def __init__(self, layout: GroupLayout, page_size: int) -> None:
        self._tables = layout.tables
        self._first: list[int] = (layout.first_key // page_size).tolist()

    def groups(self, sequences: list[int]) -> Iterator[_Group]:
        """Part sequences by what they share."""
        while len(sequences) > 1:
            # Nothing is shared before the window of the sequence that has gone farthest.
            at = max(self._first[s] for s in sequences)
            for part in self._parted(sequences, at):
                yield from self._tree(part, at)[0]
            sequences = [s for s in sequences if self._end(s) <= at]

    def _end(self, sequence: int) -> int:
        return self._first[sequence] + len(self._tables[sequence])

    def _tree(self, sequences: list[int], at: int) -> tuple[list[_Group], list[int]]:
        """Group sequences that share page `at`; also return one that stays alone, if one does.

        Those that share more than all do are a group of their own where that saves more.
        """
        count = self._common(sequences, at)
        groups: list[_Group] = []
        merged = sequences
        for part in self._parted(sequences, at + count):
            inner, alone = self._tree(part, at + count)
            inner = [_Group(group.sequences, at, group.count + count) for group in inner]
            if sum(group.saved for group in inner) >= (len(part) - len(alone)) * count:
                groups += inner
                gone = set(part).difference(alone)
                merged = [s for s in merged if s not in gone]
        if len(merged) < 2:
            return groups, merged
        return [*groups, _Group(merged, at, count)], []

    def _parted(self, sequences: list[int], at: int) -> list[list[int]]:
        """Return the sequences that share page `at` with another, those of one page together."""
        parts: defaultdict[int, list[int]] = defaultdict(list)
        for s in sequences:
            if self._end(s) > at:
                parts[self._tables[s].item(at - self._first[s])].append(s)
        return [part for part in parts.values() if len(part) > 1]

    def _common(self, sequences: list[int], at: int) -> int:
        """Return how many pages from `at` on all of them share."""
        length = min(self._end(s) for s in sequences) - at
        starts = [at - self._first[s] for s in sequences]
        tables = np.stack(
            [self._tables[s][i : i + length] for s, i in zip(sequences, starts, strict=True)]
        )
        equal = (tables == tables[0]).all(axis=0)
        return length if equal.all() else int(equal.argmin())
