// Many rows at the same keys: blocks of keys and values are packed, and go through the products of
// `micro.h`, in the manner of FlashAttention-2 (Dao 2023, arXiv:2307.08691).
#include "attention.h"

namespace gemmaray {
namespace {

alignas(64) const bf16 zeros[MAX_SIZE] = {};

// Where a key lies; zeros stand for those that are not among `keys`.
inline const bf16* at(const Attention& a, Place place, const bf16* from, long key, Range keys) {
  return key < keys.begin || key >= keys.end ? zeros : from + offset_of(a, place, key);
}

// Packs keys from `first` on into panels [KEYS / 32][size / 2][32][2].
void pack_keys(const Attention& a, Place place, long first, long padded, Range keys, bf16* out) {
  for (long key = 0; key < padded; key += LANES) {
    const int32_t* rows[16];
    for (long i = 0; i < LANES; i++) {
      rows[i] = (const int32_t*)at(a, place, a.keys, first + key + i, keys);
    }
    int32_t* panel = (int32_t*)out + key / PANEL * a.size / 2 * PANEL + key % PANEL;
    for (long pair = 0; pair < a.size / 2; pair += LANES) {
      transpose(rows, pair, panel + pair * PANEL, PANEL);
    }
  }
}

// Packs values into panels [size / 32][keys / 2][32][2]; keys come in pairs.
// Of each 32 columns the order is that in which the unpacking leaves them.
void pack_values(const Attention& a, Place place, long first, long padded, Range keys, bf16* out) {
  for (long key = 0; key < padded; key += 2) {
    const bf16* even = at(a, place, a.values, first + key, keys);
    const bf16* odd = at(a, place, a.values, first + key + 1, keys);
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
  for (long key = aligned(keys.begin); key < keys.end; key += KEYS) {
    const long here = std::min(KEYS, keys.end - key);
    const long padded = (here + PANEL - 1) / PANEL * PANEL;
    pack_keys(a, place, key, padded, keys, s.keys);
    pack_values(a, place, key, padded, keys, s.values);
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
