// Attention of a run of queries: blocks of keys and values are packed, and go through the products of
// `micro.h`, in the manner of FlashAttention-2 (Dao 2023, arXiv:2307.08691).
#include <cstring>

#include "attention.h"

namespace gemmaray {
namespace {

// Writes 16 rows of 16 pairs as 16 pairs of 16 rows: a transposition of 32-bit elements.
inline void transpose(const int32_t* const (&rows)[16], long at, int32_t* out, long stride) {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(rows[i] + at);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    _mm512_storeu_si512(out + i * stride, _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88));
    _mm512_storeu_si512(out + (4 + i) * stride, _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88));
    _mm512_storeu_si512(out + (8 + i) * stride, _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd));
    _mm512_storeu_si512(out + (12 + i) * stride, _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd));
  }
}

// Packs `count` keys from `first` on into panels [KEYS / 32][size / 2][32][2], zeros behind them.
void pack_keys(const Attention& a, const Task& task, long first, long count, bf16* out) {
  alignas(64) static const bf16 zeros[MAX_SIZE] = {};
  const long padded = (count + PANEL - 1) / PANEL * PANEL;
  for (long key = 0; key < padded; key += LANES) {
    const int32_t* rows[16];
    for (long i = 0; i < LANES; i++) {
      rows[i] = (const int32_t*)(key + i < count ? a.keys + offset_of(a, task, first + key + i)
                                                 : zeros);
    }
    int32_t* panel = (int32_t*)out + key / PANEL * a.size / 2 * PANEL + key % PANEL;
    for (long pair = 0; pair < a.size / 2; pair += LANES) {
      transpose(rows, pair, panel + pair * PANEL, PANEL);
    }
  }
}

// Packs values into panels [size / 32][keys / 2][32][2]; keys come in pairs, the last with zeros.
void pack_values(const Attention& a, const Task& task, long first, long count, long padded,
                 bf16* out) {
  for (long key = 0; key < padded; key += 2) {
    const bool one = key < count, two = key + 1 < count;
    const bf16* even = one ? a.values + offset_of(a, task, first + key) : nullptr;
    const bf16* odd = two ? a.values + offset_of(a, task, first + key + 1) : nullptr;
    for (long column = 0; column < a.size; column += PANEL) {
      bf16* to = out + column * padded + key * PANEL;
      for (long half = 0; half < PANEL; half += LANES) {
        __m512i low = _mm512_setzero_si512(), high = low;
        if (one) {
          low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(even + column + half)));
        }
        if (two) {
          high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(odd + column + half)));
        }
        _mm512_storeu_si512(to + 2 * half, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
    }
  }
}

template <int COUNT>
struct Score {
  static __attribute__((noinline)) void run(Scratch& s, long row, long panel, long size) {
    __m512 sums[COUNT][2];
#pragma GCC unroll 12
    for (int i = 0; i < COUNT; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    accumulate<Bf16, COUNT>(s.queries + row * size, size, s.keys + panel * PANEL * size, size / 2,
                            sums);
#pragma GCC unroll 12
    for (int i = 0; i < COUNT; i++) {
      float* to = s.scores + (row + i) * KEYS + panel * PANEL;
      _mm512_store_ps(to, sums[i][0]);
      _mm512_store_ps(to + LANES, sums[i][1]);
    }
  }
};

template <int COUNT>
struct Mix {
  static __attribute__((noinline)) void run(Scratch& s, long row, long column, long size, long keys) {
    __m512 sums[COUNT][2];
#pragma GCC unroll 12
    for (int i = 0; i < COUNT; i++) {
      const float* from = s.out + (row + i) * size + column;
      sums[i][0] = _mm512_load_ps(from);
      sums[i][1] = _mm512_load_ps(from + LANES);
    }
    accumulate<Bf16, COUNT>(s.weights + row * KEYS, KEYS, s.values + column * keys, keys / 2, sums);
#pragma GCC unroll 12
    for (int i = 0; i < COUNT; i++) {
      float* to = s.out + (row + i) * size + column;
      _mm512_store_ps(to, sums[i][0]);
      _mm512_store_ps(to + LANES, sums[i][1]);
    }
  }
};

}  // namespace

void attend_run(const Attention& a, const Task& task, Scratch& s) {
  const long group = a.group(), size = a.size, rows = task.count * group;
  const long token = a.query_starts[task.sequence] + task.first;
  for (long i = 0; i < task.count; i++) {
    std::memcpy(s.queries + i * group * size,
                a.queries + (token + i) * a.query_stride + task.kv_head * group * size,
                group * size * sizeof(bf16));
  }
  std::fill_n(s.out, rows * size, 0.0f);
  std::fill_n(s.sums, rows, 0.0f);
  std::fill_n(s.maxima, rows, -INFINITY);
  const long end = seen(a, position(a, task, task.first + task.count - 1)).end;
  for (long key = seen(a, position(a, task, task.first)).begin; key < end; key += KEYS) {
    const long count = std::min(KEYS, end - key);
    const long padded = (count + PANEL - 1) / PANEL * PANEL;
    pack_keys(a, task, key, count, s.keys);
    pack_values(a, task, key, count, padded, s.values);
    // The first of the rows that see any of these keys: the others lie wholly before them.
    const long skipped = std::max(0L, key - position(a, task, task.first)) * group;
    for (long row = skipped; row < rows; row += MAX_ROWS) {
      const int some = (int)std::min<long>(rows - row, MAX_ROWS);
      for (long panel = 0; panel < padded / PANEL; panel++) {
        with_rows<Score>(some, s, row, panel, size);
      }
    }
    for (long row = skipped; row < rows; row++) {
      weigh(a, s, row, key, padded, seen(a, position(a, task, task.first + row / group)));
    }
    for (long column = 0; column < size; column += PANEL) {
      for (long row = skipped; row < rows; row += MAX_ROWS) {
        with_rows<Mix>((int)std::min<long>(rows - row, MAX_ROWS), s, row, column, size, padded);
      }
    }
  }
  for (long row = 0; row < rows; row++) {
    const Vec factor = _mm512_set1_ps(1.0f / s.sums[row]);
    bf16* out = a.out + ((token + row / group) * a.heads + task.kv_head * group + row % group) * size;
    for (long i = 0; i < size; i += LANES) {
      store_bf16(out + i, _mm512_mul_ps(_mm512_load_ps(s.out + row * size + i), factor));
    }
  }
}

}  // namespace gemmaray
