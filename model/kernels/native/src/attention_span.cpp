// Keys for one query alone, a decode: each key and value is read once, as it lies in its page.
#include <cstring>
#include <type_traits>

#include "attention.h"

namespace gemmaray {
namespace {

constexpr long SINGLE = 16;  // keys per block

// A block of a span: its keys and values of the first KV head; the last one twice.
struct Block {
  const Span* span;
  long first, count;
  const bf16 *keys[SINGLE + 1], *values[SINGLE + 1];
};

// Walks through the blocks of all spans.
class Blocks {
 public:
  Blocks(const Attention& a, const Span* spans, long count, long kv_head)
      : a_(a), span_(spans), end_(spans + count), kv_head_(kv_head), key_(spans->keys.begin) {}

  // Returns the next block; none has a count of 0.
  Block next() {
    while (span_ < end_ && key_ >= span_->keys.end) {
      if (++span_ < end_) key_ = span_->keys.begin;
    }
    if (span_ == end_) return {};
    Block block;
    block.span = span_;
    block.first = key_;
    block.count = std::min(span_->keys.end - key_, SINGLE);
    for (long i = 0; i < block.count; i++) {
      const long offset = offset_of(a_, {span_->sequence, kv_head_}, key_ + i);
      block.keys[i] = a_.keys + offset;
      block.values[i] = a_.values + offset;
    }
    block.keys[block.count] = block.keys[block.count - 1];
    block.values[block.count] = block.values[block.count - 1];
    key_ += SINGLE;
    return block;
  }

 private:
  const Attention& a_;
  const Span *span_, *end_;
  const long kv_head_;
  long key_;
};

// Scores of a block's keys for HEADS rows from `row` on, two keys at a time. Meanwhile it fetches the
// keys of the next block, if that is asked for.
template <int HEADS>
__attribute__((noinline)) void score_block(Scratch& s, const Block& block, const Block& next,
                                           bool fetch, long offset, long size, long row) {
  const bf16* queries = s.queries + row * size;
  for (long i = 0; i < block.count; i += 2) {
    const bf16 *one = block.keys[i] + offset, *two = block.keys[i + 1] + offset;
    const long coming = fetch && i < next.count ? i : -1;
    __m512 sums[2][HEADS];
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) sums[0][h] = sums[1][h] = _mm512_setzero_ps();
    for (long j = 0; j < size; j += 32) {
      if (coming >= 0) {
        _mm_prefetch((const char*)(next.keys[coming] + offset + j), _MM_HINT_T1);
        _mm_prefetch((const char*)(next.keys[coming + 1] + offset + j), _MM_HINT_T1);
      }
      const __m512i first = _mm512_loadu_si512(one + j), second = _mm512_loadu_si512(two + j);
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; h++) {
        const __m512i query = _mm512_loadu_si512(queries + h * size + j);
        Bf16::dot(sums[0][h], first, query);
        Bf16::dot(sums[1][h], second, query);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) {
      float* to = s.scores + (row + h) * KEYS + i;
      to[0] = _mm512_reduce_add_ps(sums[0][h]);
      to[1] = _mm512_reduce_add_ps(sums[1][h]);
    }
  }
}

// Adds the weighted values of a block to HEADS rows of the output, two keys at a time.
template <int HEADS>
__attribute__((noinline)) void mix_block(Scratch& s, const Block& block, const Block& next,
                                         bool fetch, long offset, long size, long row) {
  for (long column = 0; column < size; column += 2 * LANES) {
    __m512 sums[HEADS][2];
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) {
      sums[h][0] = _mm512_load_ps(s.out + (row + h) * size + column);
      sums[h][1] = _mm512_load_ps(s.out + (row + h) * size + column + LANES);
    }
    for (long i = 0; i < block.count; i += 2) {
      if (fetch && i < next.count) {
        _mm_prefetch((const char*)(next.values[i] + offset + column), _MM_HINT_T1);
        _mm_prefetch((const char*)(next.values[i + 1] + offset + column), _MM_HINT_T1);
      }
      const __m512i even = _mm512_loadu_si512(block.values[i] + offset + column);
      const __m512i odd = _mm512_loadu_si512(block.values[i + 1] + offset + column);
      const __m512i low = _mm512_unpacklo_epi16(even, odd);
      const __m512i high = _mm512_unpackhi_epi16(even, odd);
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; h++) {
        int32_t pair;
        std::memcpy(&pair, s.weights + (row + h) * KEYS + i, sizeof pair);
        const __m512i weight = _mm512_set1_epi32(pair);
        Bf16::dot(sums[h][0], low, weight);
        Bf16::dot(sums[h][1], high, weight);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) {
      _mm512_store_ps(s.out + (row + h) * size + column, sums[h][0]);
      _mm512_store_ps(s.out + (row + h) * size + column + LANES, sums[h][1]);
    }
  }
}

// Calls body(head, HEADS) for runs of 4, 2 and 1 of the query heads that share a KV head.
template <class Body>
inline void in_runs(long group, Body body) {
  long head = 0;
  for (; head + 4 <= group; head += 4) body(head, std::integral_constant<int, 4>());
  for (; head + 2 <= group; head += 2) body(head, std::integral_constant<int, 2>());
  if (head < group) body(head, std::integral_constant<int, 1>());
}

}  // namespace

// Each key and value is used once, so the time is the memory's. The keys of all KV heads are taken
// together, since they lie side by side. Values, and the keys of the next block, are fetched while
// scores are computed.
void take_spans(const Attention& a, const Span* spans, long count, long kv_head, long kv_heads,
                long stride, Scratch& s) {
  const long size = a.size, group = a.group();
  Blocks walk(a, spans, count, kv_head);
  Block blocks[2] = {walk.next()};
  for (long turn = 0; blocks[turn].count; turn ^= 1) {
    const Block& block = blocks[turn];
    const Block& next = blocks[turn ^ 1] = walk.next();
    const long padded = (block.count + LANES - 1) / LANES * LANES;
    for (long k = 0; k < kv_heads; k++) {
      const long row = block.span->row + k * stride;
      in_runs(group, [&](long head, auto heads) {
        score_block<heads>(s, block, next, head == 0, k * size, size, row + head);
      });
      for (long i = 0; i < group; i++) {
        weigh(a, s, row + i, block.first, padded, block.first + block.count);
      }
    }
    for (long k = 0; k < kv_heads; k++) {
      in_runs(group, [&](long head, auto heads) {
        mix_block<heads>(s, block, next, head == 0, k * size, size,
                         block.span->row + k * stride + head);
      });
    }
  }
}

}  // namespace gemmaray
