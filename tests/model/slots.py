"""Where a sequence keeps its positions, one by one: the tests' own reading of a page table."""

from model.batch import LayerKind
from model.hybrid_cache import HybridCache, SequenceCache


def slots_of(cache: HybridCache, sequence: SequenceCache, kind: LayerKind, start: int) -> list[int]:
    """Return the slots of positions [start, length)."""
    table, size = sequence.tables[kind], cache.page_size
    return [
        table.pages[position // size - table.dropped] * size + position % size
        for position in range(start, sequence.length)
    ]
