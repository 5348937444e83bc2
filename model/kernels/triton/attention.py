"""Attention over the paged cache as Triton programs: FlashAttention-2 (Dao 2023, arXiv:2307.08691).

A tile is a few queries of one sequence. All query heads of a KV head are rows of one product, so
that keys and values are read once for them. Where tiles are few and long (decodes), the keys are
cut at multiples of CHUNK positions into parts, each a program of its own, and `combine` joins them:
a result depends on its own sequence's length and nothing else in the batch.
"""

import triton
import triton.language as tl

# Below every score, and finite: a row that sees nothing of a block keeps a number here.
LOWEST = tl.constexpr(-1.0e30)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["table_stride", "window"])
def attend(
    q_ptr,
    keys_ptr,
    values_ptr,
    out_ptr,
    sums_ptr,
    tiles_ptr,
    tables_ptr,
    first_keys_ptr,
    q_stride,
    table_stride,
    window,
    scale,
    CAP: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    PAGE: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Attend with one tile and one KV head, over all keys or one part of them.

    With one part, out is [tokens, heads, SIZE] like q. With more, it is float32 [tiles, heads,
    PARTS, SIZE], each part normalized alone, and sums [tiles, heads, PARTS] holds log2 of what it
    was divided by. Tiles [tiles, 4]: sequence, first row, rows, position of the first query.
    """
    tile, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence = tl.load(tiles_ptr + tile * 4)
    row = tl.load(tiles_ptr + tile * 4 + 1).to(tl.int64)
    count = tl.load(tiles_ptr + tile * 4 + 2)
    first = tl.load(tiles_ptr + tile * 4 + 3)
    origin = tl.load(first_keys_ptr + sequence)
    table_ptr = tables_ptr + sequence.to(tl.int64) * table_stride

    lane = tl.arange(0, BLOCK_M)
    query = lane // GROUP
    exists = query < count
    features = tl.arange(0, SIZE)
    heads = head * GROUP + lane % GROUP
    place = (row + query) * q_stride + heads * SIZE
    q = tl.load(q_ptr + place[:, None] + features, mask=exists[:, None], other=0.0)
    position = first + query

    low = tl.maximum(first - window + 1, 0)
    high = first + count
    begin, end = low, high
    if PARTS > 1:
        begin = tl.maximum(low, (low // CHUNK + part) * CHUNK)
        end = tl.minimum(high, (low // CHUNK + part + 1) * CHUNK)

    peak = tl.full([BLOCK_M], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, SIZE], tl.float32)
    for block in range(begin // BLOCK_N * BLOCK_N, end, BLOCK_N):
        page = tl.load(table_ptr + (block - origin) // PAGE).to(tl.int64)
        key = block + tl.arange(0, BLOCK_N)
        there = (key >= begin) & (key < end)
        slot = page * PAGE + block % PAGE + tl.arange(0, BLOCK_N)
        source = (slot * KV_HEADS + head)[:, None] * SIZE + features
        k = tl.load(keys_ptr + source, mask=there[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if CAP > 0:
            scores = CAP * (2.0 * tl.sigmoid(2.0 * scores / CAP) - 1.0)
        distance = position[:, None] - key
        seen = there & (distance >= 0) & (distance < window)
        scores = tl.where(seen, scores * LOG2_E, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        v = tl.load(values_ptr + source, mask=there[:, None], other=0.0)
        out = out * shrink[:, None]
        out += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        peak = higher

    out = out / tl.where(total > 0.0, total, 1.0)[:, None]
    if PARTS == 1:
        target = ((row + query) * KV_HEADS * GROUP + heads) * SIZE
        rounded = out.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + target[:, None] + features, rounded, mask=exists[:, None])
    else:
        index = (tile.to(tl.int64) * KV_HEADS * GROUP + heads) * PARTS + part
        some = exists & (total > 0.0)
        tl.store(out_ptr + index[:, None] * SIZE + features, out, mask=some[:, None])
        log = tl.where(total > 0.0, peak + tl.log2(tl.maximum(total, 1e-30)), LOWEST)
        tl.store(sums_ptr + index, log, mask=exists)


@triton.jit
def combine(
    parts_ptr,
    sums_ptr,
    out_ptr,
    tiles_ptr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Join the parts of one head of one tile, which has a single row."""
    tile, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(tiles_ptr + tile * 4 + 1).to(tl.int64)
    features, part = tl.arange(0, SIZE), tl.arange(0, BLOCK)
    index = (tile * HEADS + head) * PARTS + part
    logs = tl.load(sums_ptr + index, mask=part < PARTS, other=LOWEST)
    weights = tl.exp2(logs - tl.max(logs, axis=0))
    # A part that saw no key was not written.
    some = logs > LOWEST
    weights = tl.where(some, weights, 0.0)
    values = tl.load(parts_ptr + index[:, None] * SIZE + features, mask=some[:, None], other=0.0)
    out = tl.sum(values * weights[:, None], axis=0) / tl.sum(weights, axis=0)
    target = (row * HEADS + head) * SIZE + features
    tl.store(out_ptr + target, out.to(out_ptr.dtype.element_ty))
