"""Finding pages by what led to them, and what the hybrid cache gains at long contexts."""

import random

import pytest

from model.batch import LayerKind
from model.hybrid_cache import HybridCache, SequenceCache
from model.prefix_cache import PrefixCache, page_digests

PAGE = 4
WINDOW = 8
WINDOWS: dict[LayerKind, int | None] = {"full_attention": None, "sliding_attention": WINDOW}
TOKENS = random.Random(0).sample(range(256000), 64)


def compute(
    cache: HybridCache, tokens: list[int], chunk: int = 64, *, start: SequenceCache | None = None
) -> SequenceCache:
    """Do what the engine does with a prompt: extend, name, trim."""
    prefixes, digests = PrefixCache(cache), page_digests(tokens, cache.page_size)
    sequence = start or prefixes.hold(digests[: (len(tokens) - 1) // cache.page_size])
    while sequence.length < len(tokens):
        before = sequence.length
        cache.extend(sequence, min(chunk, len(tokens) - before))
        size = cache.page_size
        prefixes.name(sequence, digests, before // size, sequence.length // size)
        cache.trim(sequence)
    return sequence


def hit(cache: HybridCache, tokens: list[int]) -> int:
    """Tokens that need not be computed again."""
    return PrefixCache(cache).depth(page_digests(tokens, cache.page_size)) * cache.page_size


class TestDigests:
    def test_full_pages_only(self) -> None:
        assert [len(page_digests(TOKENS[:n], 4)) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]

    def test_a_page_depends_on_all_before_it(self) -> None:
        one = page_digests(TOKENS[:16], 4)
        other = page_digests([TOKENS[0] + 1, *TOKENS[1:16]], 4)
        assert len({*one, *other}) == 8
        assert page_digests(TOKENS[:12], 4) == one[:3]

    def test_a_salt_parts_prompts(self) -> None:
        assert not {*page_digests(TOKENS, 4)} & {*page_digests(TOKENS, 4, b"tenant")}


class TestHits:
    @pytest.mark.parametrize("chunk", [3, 4, 64])
    def test_a_whole_prompt(self, chunk: int) -> None:
        cache = HybridCache(100, PAGE, WINDOWS)
        first = compute(cache, TOKENS[:30], chunk)
        assert hit(cache, TOKENS) == 28
        cache.release(first)
        assert hit(cache, TOKENS) == 28, "idle pages are found too"
        assert hit(cache, [TOKENS[0] + 1, *TOKENS[1:]]) == 0

    def test_only_a_window_is_needed_of_the_sliding_group(self) -> None:
        cache = HybridCache(100, PAGE, WINDOWS)
        compute(cache, TOKENS[:32], 4)
        second = PrefixCache(cache).hold(page_digests(TOKENS[:32], PAGE))
        assert second.length == 32
        full, sliding = (second.tables[kind] for kind in WINDOWS)
        assert len(full.pages) == 8
        # Position 32 sees 25..32: pages 6 and 7.
        assert (sliding.dropped, len(sliding.pages)) == (6, 2)

    def test_without_its_window_a_prefix_is_no_use(self) -> None:
        cache = HybridCache(12, PAGE, WINDOWS)
        compute(cache, TOKENS[:32], 4)
        # 8 + 2 pages are held, and of those that left the window only the last two are not taken.
        assert hit(cache, TOKENS[:32]) == 32
        assert hit(cache, TOKENS[:24]) == 24, "sees pages 4 and 5"
        assert hit(cache, TOKENS[:20]) == 0, "sees pages 3 and 4"

    def test_the_end_of_a_prefix_goes_first(self) -> None:
        cache = HybridCache(16, PAGE, {**WINDOWS, "sliding_attention": 64})
        cache.release(compute(cache, TOKENS[:16]))
        assert cache.pool.num_idle == 8
        cache.release(compute(cache, [7] * 20))
        assert hit(cache, TOKENS[:16]) == 12, "two of its pages were taken, one of each group"

    def test_the_one_used_longest_ago_goes_first(self) -> None:
        cache = HybridCache(16, PAGE, WINDOWS)
        a, b = TOKENS[:12], TOKENS[20:32]
        cache.release(compute(cache, a))
        cache.release(compute(cache, b))
        cache.release(compute(cache, a))
        cache.release(compute(cache, [7] * 20))
        assert hit(cache, a) == 12
        assert hit(cache, b) < 12

    def test_twins_end_up_in_the_same_pages(self) -> None:
        cache = HybridCache(100, PAGE, WINDOWS)
        twins = [compute(cache, TOKENS[:18], start=cache.new_sequence()) for _ in range(2)]
        for kind in WINDOWS:
            one, other = (twin.tables[kind].pages for twin in twins)
            assert one[:-1] == other[:-1]
            assert one[-1] != other[-1], "the last page is not full, so it is each one's own"
        cache.check_integrity(twins)

    def test_forgetting(self) -> None:
        cache = HybridCache(100, PAGE, WINDOWS)
        held = compute(cache, TOKENS[:8])
        cache.release(compute(cache, TOKENS[20:40]))
        PrefixCache(cache).clear()
        assert hit(cache, TOKENS[20:40]) == 0
        assert hit(cache, TOKENS[:8]) == 8
        cache.check_integrity([held])

    def test_few_idle_pages_are_kept_where_memory_is_not_touched_yet(self) -> None:
        cache = HybridCache(1000, PAGE, WINDOWS, max_idle=20)
        touched = set()
        for seed in range(50):
            sequence = compute(cache, [seed] * 40)
            touched.update(p for table in sequence.tables.values() for p in table.pages)
            cache.release(sequence)
        assert len(touched) <= 20 + 2 * 20


@pytest.mark.parametrize(
    ("context", "least"), [(1024, 1.0), (4096, 1.0), (6144, 1.15), (8192, 1.3)]
)
def test_more_long_sequences_than_an_all_full_cache(context: int, least: float) -> None:
    """Gemma 2's window in the same pages, filled for real; a decoding batch, so chunks of 1."""
    held = {}
    for window in (4096, None):
        cache = HybridCache(20_000, 16, {"full_attention": None, "sliding_attention": window})
        held[window] = 0
        while True:
            if cache.demand(context, 1, ()) > cache.pool.num_free:
                break
            sequence = cache.new_sequence()
            for _ in range(0, context, 16):
                cache.extend(sequence, 16)
                cache.trim(sequence)
            held[window] += 1
    ratio = held[4096] / held[None]
    print(f"\n{context} tokens: {held[4096]} sequences against {held[None]}, {ratio:.2f}x")
    assert ratio >= least
    assert context > 4096 or ratio == 1.0
