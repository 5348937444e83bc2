// Keys for one query alone, a decode: each key and value is read once, as it lies in its page.
#include <cstring>
#include <type_traits>

#include "attention.h"

namespace gemmaray {
namespace {

constexpr long SINGLE = 2 * LANES;  // keys per block; it begins at a multiple of LANES

// A block of a span: its keys and values of the first KV head. Where there are none, others stand.
struct Block {
  const Span* span;
  long first, count;
  const bf16 *keys[SINGLE], *values[SINGLE];
};

// Walks through the blocks of all spans.
class Blocks {
 public:
  Blocks(const Attention& a, const Span* spans, long count, long kv_head)
      : a_(a), span_(spans), end_(spans + count), kv_head_(kv_head) {
    begin_span();
  }

  // Returns the next block; none has a count of 0.
  Block next() {
    while (span_ < end_ && key_ >= span_->keys.end) {
      span_++;
      begin_span();
    }
    if (span_ == end_) return {};
    Block block;
    block.span = span_;
    block.first = key_;
    block.count = std::min(span_->keys.end - key_, SINGLE);
    const Place place = {span_->sequence, kv_head_};
    for (long i = 0; i < SINGLE; i++) {
      const long key = std::clamp(key_ + i, span_->keys.begin, span_->keys.end - 1);
      const long offset = offset_of(a_, place, key);
      block.keys[i] = a_.keys + offset;
      block.values[i] = a_.values + offset;
    }
    key_ += SINGLE;
    return block;
  }

 private:
  void begin_span() {
    // An empty span has no block, wherever it would begin.
    if (span_ < end_) key_ = span_->keys.begin < span_->keys.end ? aligned(span_->keys.begin)
                                                                 : span_->keys.end;
  }

  const Attention& a_;
  const Span *span_, *end_;
  const long kv_head_;
  long key_ = 0;
};

// Scores of GROUPS times 16 keys of a block for HEADS rows from `row` on: element after element, as
// `accumulate` adds them. Meanwhile it fetches the keys of the next block, if that is asked for.
template <int HEADS, int GROUPS>
__attribute__((noinline)) void score_keys(Scratch& s, const Block& block, const Block& next,
                                          bool fetch, long offset, long size, long row) {
  alignas(64) int32_t pairs[GROUPS][LANES * LANES];
  const int32_t *queries = (const int32_t*)(s.queries + row * size), *keys[GROUPS][LANES];
  for (int g = 0; g < GROUPS; g++) {
    for (long i = 0; i < LANES; i++) keys[g][i] = (const int32_t*)(block.keys[g * LANES + i] + offset);
  }
  __m512 sums[HEADS][GROUPS];
#pragma GCC unroll 4
  for (int h = 0; h < HEADS; h++) {
#pragma GCC unroll 2
    for (int g = 0; g < GROUPS; g++) sums[h][g] = _mm512_setzero_ps();
  }
  for (long pair = 0; pair < size / 2; pair += LANES) {
    for (long i = 0; fetch && i < next.count; i++) {
      _mm_prefetch((const char*)(next.keys[i] + offset + 2 * pair), _MM_HINT_T1);
    }
#pragma GCC unroll 2
    for (int g = 0; g < GROUPS; g++) transpose(keys[g], pair, pairs[g], LANES);
    for (long k = 0; k < LANES; k++) {
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; h++) {
        const __m512i query = _mm512_set1_epi32(queries[h * size / 2 + pair + k]);
#pragma GCC unroll 2
        for (int g = 0; g < GROUPS; g++) {
          Bf16::dot(sums[h][g], query, _mm512_load_si512(pairs[g] + k * LANES));
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < HEADS; h++) {
#pragma GCC unroll 2
    for (int g = 0; g < GROUPS; g++) {
      _mm512_store_ps(s.scores + (row + h) * KEYS + g * LANES, sums[h][g]);
    }
  }
}

template <int HEADS>
void score_block(Scratch& s, const Block& block, const Block& next, bool fetch, long offset,
                 long size, long row) {
  (block.count > LANES ? score_keys<HEADS, 2> : score_keys<HEADS, 1>)(s, block, next, fetch, offset,
                                                                       size, row);
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
