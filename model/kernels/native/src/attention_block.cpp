// Many rows at the same keys: blocks of keys and values are packed, and go through the products of
// `micro.h`, in the manner of FlashAttention-2 (Dao 2023, arXiv:2307.08691).
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
void pack_keys(const Attention& a, Place place, long first, long count, bf16* out) {
  alignas(64) static const bf16 zeros[MAX_SIZE] = {};
  const long padded = (count + PANEL - 1) / PANEL * PANEL;
  for (long key = 0; key < padded; key += LANES) {
    const int32_t* rows[16];
    for (long i = 0; i < LANES; i++) {
      rows[i] = (const int32_t*)(key + i < count ? a.keys + offset_of(a, place, first + key + i)
                                                 : zeros);
    }
    int32_t* panel = (int32_t*)out + key / PANEL * a.size / 2 * PANEL + key % PANEL;
    for (long pair = 0; pair < a.size / 2; pair += LANES) {
      transpose(rows, pair, panel + pair * PANEL, PANEL);
    }
  }
}

// Packs values into panels [size / 32][keys / 2][32][2]; keys come in pairs, the last with zeros.
// Of each 32 columns the order is that in which the unpacking leaves them.
void pack_values(const Attention& a, Place place, long first, long count, long padded, bf16* out) {
  alignas(64) static const bf16 zeros[MAX_SIZE] = {};
  for (long key = 0; key < padded; key += 2) {
    const bf16* even = key < count ? a.values + offset_of(a, place, first + key) : zeros;
    const bf16* odd = key + 1 < count ? a.values + offset_of(a, place, first + key + 1) : zeros;
    for (long column = 0; column < a.size; column += PANEL) {
      const __m512i one = _mm512_loadu_si512(even + column), two = _mm512_loadu_si512(odd + column);
      bf16* to = out + column * padded + key * PANEL;
      _mm512_storeu_si512(to, _mm512_unpacklo_epi16(one, two));
      _mm512_storeu_si512(to + PANEL, _mm512_unpackhi_epi16(one, two));
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

void take_blocks(const Attention& a, Place place, Range keys, long row, long count, Scratch& s) {
  const long size = a.size, end = row + count;
  for (long key = keys.begin; key < keys.end; key += KEYS) {
    const long here = std::min(KEYS, keys.end - key);
    const long padded = (here + PANEL - 1) / PANEL * PANEL;
    pack_keys(a, place, key, here, s.keys);
    pack_values(a, place, key, here, padded, s.values);
    // The first rows may lie wholly before these keys.
    while (row < end && s.seen[row].end <= key) row++;
    in_tiles(row, end - row, [&](long i, int height) {
      for (long panel = 0; panel < padded / PANEL; panel++) {
        with_rows<Score>(height, s, i, panel, size);
      }
    });
    for (long i = row; i < end; i++) weigh(a, s, i, key, padded, key + here);
    for (long column = 0; column < size; column += PANEL) {
      in_tiles(row, end - row, [&](long i, int height) {
        with_rows<Mix>(height, s, i, column, size, padded);
      });
    }
  }
}

}  // namespace gemmaray
