// What the two ways of attending share: the arguments, the scratch memory of a thread, and how scores
// become weights.
#pragma once

#include <algorithm>
#include <cmath>

#include "micro.h"

namespace gemmaray {

constexpr long KEYS = 64;       // per block
constexpr long ROWS = 128;      // queries times heads per task
constexpr long MAX_SIZE = 256;  // of a head
// exp of anything that a soft cap lets through stays within float32 and bfloat16.
constexpr float SAFE_CAP = 60.0f;

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
  long window;  // keys that a query sees; 0 for all
  float scale, cap;  // cap 0 for none
  long group() const { return heads / kv_heads; }
};

struct Task {
  long sequence, kv_head, kv_heads, first, count;  // queries [first, first + count) of the sequence
};

struct Scratch {
  alignas(64) bf16 queries[ROWS * MAX_SIZE];
  alignas(64) bf16 keys[KEYS * MAX_SIZE];
  alignas(64) bf16 values[KEYS * MAX_SIZE];
  alignas(64) float scores[ROWS * KEYS];
  alignas(64) bf16 weights[ROWS * KEYS];
  alignas(64) float out[ROWS * MAX_SIZE];
  float sums[ROWS], maxima[ROWS];
};

struct Range {
  long begin, end;
};

inline long position(const Attention& a, const Task& task, long query) {
  const long* starts = a.query_starts + task.sequence;
  return a.key_lens[task.sequence] - (starts[1] - starts[0]) + query;
}

// Keys that a query at this position sees.
inline Range seen(const Attention& a, long position) {
  return {a.window ? std::max(0L, position + 1 - a.window) : 0, position + 1};
}

inline long offset_of(const Attention& a, const Task& task, long key) {
  const long at = key - a.first_keys[task.sequence];
  const long page = a.tables[task.sequence * a.table_stride + at / a.page_size];
  return ((page * a.page_size + at % a.page_size) * a.kv_heads + task.kv_head) * a.size;
}

inline Vec capped(const Attention& a, Vec score) {
  score = _mm512_mul_ps(score, _mm512_set1_ps(a.scale));
  return a.cap > 0 ? soft_cap(score, a.cap) : score;
}

// Turns one row's scores of the keys [first, first + count) into weights; those outside of
// `range` get none. Without a safe cap the row's maximum is kept, and what was added up before is
// scaled down when it grows.
inline void weigh(const Attention& a, Scratch& s, long row, long first, long padded, Range range) {
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
  Vec sum = _mm512_setzero_ps();
  for (long i = 0; i < padded; i += LANES) {
    const Vec score = _mm512_load_ps(scores + i);
    const __mmask16 lanes = _mm512_cmp_ps_mask(score, _mm512_set1_ps(-INFINITY), _CMP_NEQ_OQ);
    const Vec weight = _mm512_maskz_mov_ps(lanes, exp(_mm512_sub_ps(score, _mm512_set1_ps(maximum))));
    sum = _mm512_add_ps(sum, weight);
    store_bf16(s.weights + row * KEYS + i, weight);
  }
  s.sums[row] += _mm512_reduce_add_ps(sum);
}

// Several queries of one KV head: attention_run.cpp.
void attend_run(const Attention& a, const Task& task, Scratch& s);

// One query: attention_single.cpp.
void attend_single(const Attention& a, const Task& task, Scratch& s);

}  // namespace gemmaray
