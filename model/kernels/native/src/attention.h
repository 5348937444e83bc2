// What the ways of attending share: the arguments, the scratch memory of a thread, how scores become
// weights, and how a row begins and ends.
//
// A query's output has the same bits whichever way takes which keys to it, so long as the soft cap is
// a safe one: scores are added up over the head's elements in their order, weighted values over pairs
// of keys from an even position on, and weights by sixteens from a multiple of sixteen on. Text that is
// sampled does not depend on the batch, then.
#pragma once

#include <algorithm>
#include <cmath>

#include "micro.h"

namespace gemmaray {

constexpr long KEYS = 64;       // per block; it begins at a multiple of LANES
constexpr long ROWS = 128;      // queries times heads per task
constexpr long MAX_SIZE = 256;  // of a head
// exp of anything that a soft cap lets through stays within float32 and bfloat16.
constexpr float SAFE_CAP = 60.0f;

struct Range {
  long begin, end;
};

// A query of a sequence.
struct Member {
  long sequence, query;
};

struct Attention {
  const bf16* queries;  // [tokens, query_stride]
  long query_stride;
  const bf16 *keys, *values;  // [slots, kv_heads, size]
  bf16* out;                  // [tokens, heads, size]
  long heads, kv_heads, size, page_size;
  const long* query_starts;  // [sequences + 1]
  const long* key_lens;      // [sequences]
  const long* first_keys;    // [sequences] position of the first slot of the page table
  const int32_t* tables;     // [sequences, table_stride] pages
  long table_stride;
  const long* shared_starts;  // [groups + 1] into shared_queries
  const Member* shared_queries;
  const Range* shared_keys;  // [groups] positions of the keys that a group's members share
  long window;  // keys that a query sees; 0 for all
  float scale, cap;  // cap 0 for none
  long group() const { return heads / kv_heads; }
};

struct Scratch {
  alignas(64) bf16 queries[ROWS * MAX_SIZE];
  alignas(64) bf16 keys[KEYS * MAX_SIZE];
  alignas(64) bf16 values[KEYS * MAX_SIZE];
  alignas(64) float scores[ROWS * KEYS];
  alignas(64) bf16 weights[ROWS * KEYS];
  // Columns stand in the order in which unpacklo and unpackhi leave 32 of them; see `write_row`.
  alignas(64) float out[ROWS * MAX_SIZE];
  float sums[ROWS], maxima[ROWS];
  Range seen[ROWS];  // keys that a row may see
};

// Where a sequence has one KV head's keys and values.
struct Place {
  long sequence, kv_head;
};

// Keys that a query sees.
inline Range seen(const Attention& a, long sequence, long query) {
  const long* starts = a.query_starts + sequence;
  const long position = a.key_lens[sequence] - (starts[1] - starts[0]) + query;
  return {a.window ? std::max(0L, position + 1 - a.window) : 0, position + 1};
}

inline long aligned(long key) { return key / LANES * LANES; }

inline long offset_of(const Attention& a, Place place, long key) {
  const long at = key - a.first_keys[place.sequence];
  const long page = a.tables[place.sequence * a.table_stride + at / a.page_size];
  return ((page * a.page_size + at % a.page_size) * a.kv_heads + place.kv_head) * a.size;
}

// The query heads of one query that share the KV heads from `kv_head` on.
inline const bf16* query_at(const Attention& a, long sequence, long query, long kv_head) {
  return a.queries + (a.query_starts[sequence] + query) * a.query_stride + kv_head * a.group() * a.size;
}

// Where their outputs go.
inline bf16* out_at(const Attention& a, long sequence, long query, long kv_head) {
  return a.out + ((a.query_starts[sequence] + query) * a.heads + kv_head * a.group()) * a.size;
}

// Begins rows [row, row + count), which have seen nothing yet of the keys that they may see.
inline void begin_rows(const Attention& a, Scratch& s, long row, long count, Range seen) {
  std::fill_n(s.out + row * a.size, count * a.size, 0.0f);
  std::fill_n(s.sums + row, count, 0.0f);
  std::fill_n(s.maxima + row, count, -INFINITY);
  std::fill_n(s.seen + row, count, seen);
}

// Writes rows [row, row + count), which have seen everything, one after the other.
inline void write_rows(const Attention& a, const Scratch& s, long row, long count, bf16* out) {
  const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
  const __m512i second =
      _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
  for (long i = row; i < row + count; i++, out += a.size) {
    const float* from = s.out + i * a.size;
    const Vec factor = _mm512_set1_ps(1.0f / s.sums[i]);
    for (long column = 0; column < a.size; column += 2 * LANES) {
      const Vec low = _mm512_load_ps(from + column), high = _mm512_load_ps(from + column + LANES);
      store_bf16(out + column, _mm512_mul_ps(_mm512_permutex2var_ps(low, first, high), factor));
      store_bf16(out + column + LANES,
                 _mm512_mul_ps(_mm512_permutex2var_ps(low, second, high), factor));
    }
  }
}

inline Vec capped(const Attention& a, Vec score) {
  score = _mm512_mul_ps(score, _mm512_set1_ps(a.scale));
  return a.cap > 0 ? soft_cap(score, a.cap) : score;
}

// Turns one row's scores of the keys [first, first + padded) into weights; those that it may not
// see get none. Without a safe cap the row's maximum is kept, and what was added up before is
// scaled down when it grows.
inline void weigh(const Attention& a, Scratch& s, long row, long first, long padded, long end) {
  const Range range = {s.seen[row].begin, std::min(s.seen[row].end, end)};
  float* scores = s.scores + row * KEYS;
  const bool shift = !(a.cap > 0 && a.cap <= SAFE_CAP);
  Vec most = _mm512_set1_ps(-INFINITY);
  for (long i = 0; i < padded; i += LANES) {
    const __mmask16 lanes = first_lanes(range.end - first - i) & ~first_lanes(range.begin - first - i);
    const Vec score = _mm512_mask_blend_ps(lanes, _mm512_set1_ps(-INFINITY),
                                           capped(a, _mm512_load_ps(scores + i)));
    if (shift) most = _mm512_max_ps(most, score);
    _mm512_store_ps(scores + i, score);
  }
  float maximum = 0;
  if (shift) {
    const float before = s.maxima[row];
    maximum = std::max(before, _mm512_reduce_max_ps(most));
    if (maximum == -INFINITY) maximum = 0;  // no key of this block, and none before
    else if (maximum > before) {
      const Vec factor = exp(_mm512_set1_ps(before == -INFINITY ? -87.0f : before - maximum));
      float* out = s.out + row * a.size;
      for (long i = 0; i < a.size; i += LANES) {
        _mm512_store_ps(out + i, _mm512_mul_ps(_mm512_load_ps(out + i), factor));
      }
      s.sums[row] *= _mm512_cvtss_f32(factor);
      s.maxima[row] = maximum;
    }
  }
  for (long i = 0; i < padded; i += LANES) {
    const Vec score = _mm512_load_ps(scores + i);
    const __mmask16 lanes = _mm512_cmp_ps_mask(score, _mm512_set1_ps(-INFINITY), _CMP_NEQ_OQ);
    const Vec weight = _mm512_maskz_mov_ps(lanes, exp(_mm512_sub_ps(score, _mm512_set1_ps(maximum))));
    s.sums[row] += _mm512_reduce_add_ps(weight);
    store_bf16(s.weights + row * KEYS + i, weight);
  }
}

// Takes keys of a place to rows [row, row + count), whose queries are in the scratch:
// attention_block.cpp. The keys that a row may see end no earlier than those of the row before it.
void take_blocks(const Attention& a, Place place, Range keys, long row, long count, Scratch& s);

// Keys that are taken to one query alone. It has the rows of a KV head from `row` on.
struct Span {
  long sequence;
  Range keys;
  long row;
};

// Takes each span's keys of the KV heads [kv_head, kv_head + kv_heads) to the rows of its query, which
// has those of the next KV head `stride` rows farther: attention_span.cpp.
void take_spans(const Attention& a, const Span* spans, long count, long kv_head, long kv_heads,
                long stride, Scratch& s);

}  // namespace gemmaray
