// The inner loop of every matrix product here: a few rows of A times one panel of B.
//
// B is packed in panels of 32 columns, so that one load brings 16 columns of as many consecutive
// values of k as a dot-product instruction takes (2 of bfloat16, 4 of int8):
// panel[k / DEPTH][column][k % DEPTH]. Twelve rows times 32 columns keep 24 of the 32 registers
// busy with sums; fewer rows are compiled apart.
#pragma once

#include "vec.h"

namespace gemmaray {

constexpr long PANEL = 32;
constexpr int MAX_ROWS = 12;
// How far ahead of its use B is brought into the first cache, in bytes.
constexpr long AHEAD = 2048;

// The instruction is spelled out because GCC moves the sums of its int8 intrinsic to memory and
// back in every round.
struct Bf16 {
  using A = bf16;
  using B = bf16;
  using Sum = __m512;
  static constexpr long DEPTH = 2;
  static Sum zero() { return _mm512_setzero_ps(); }
  static void dot(Sum& sum, __m512i a, __m512i b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

// A is unsigned (the instruction asks for it): the values plus 128.
struct Int8 {
  using A = uint8_t;
  using B = int8_t;
  using Sum = __m512i;
  static constexpr long DEPTH = 4;
  static Sum zero() { return _mm512_setzero_si512(); }
  static void dot(Sum& sum, __m512i a, __m512i b) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

// sums[i][j] += A[i, 0..K) * panel[0..K), columns 16 j .. 16 j + 15; `groups` is K / DEPTH.
// Meanwhile it fetches as many cache lines from `later` on into the second cache: memory that comes
// after the panel. Without that, a first pass waits for memory and the others leave it idle.
template <class Kind, int ROWS>
inline __attribute__((always_inline)) void accumulate(const typename Kind::A* a, long stride,
                                                      const typename Kind::B* panel, long groups,
                                                      typename Kind::Sum (&sums)[ROWS][2],
                                                      const void* later = nullptr) {
  const int32_t* rows[ROWS];
#pragma GCC unroll 12
  for (int i = 0; i < ROWS; i++) rows[i] = (const int32_t*)(a + i * stride);
  const char* b = (const char*)panel;
  const char* ahead = later ? (const char*)later : b;
  for (long k = 0; k < groups; k++, b += 128, ahead += 64) {
    _mm_prefetch(ahead, _MM_HINT_T1);
    const __m512i left = _mm512_loadu_si512(b), right = _mm512_loadu_si512(b + 64);
    _mm_prefetch(b + AHEAD, _MM_HINT_T0);
    _mm_prefetch(b + AHEAD + 64, _MM_HINT_T0);
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++) {
      const __m512i value = _mm512_set1_epi32(rows[i][k]);
      Kind::dot(sums[i][0], value, left);
      Kind::dot(sums[i][1], value, right);
    }
  }
}

// Calls body(row, count) for tiles of [first, first + count), as few as hold MAX_ROWS each and all of
// the same height, or one less: a tile of a row or two would wait for its own sums.
template <class Body>
inline void in_tiles(long first, long count, Body body) {
  const long tiles = (count + MAX_ROWS - 1) / MAX_ROWS;
  for (long tile = 0; tile < tiles; tile++) {
    const long row = count * tile / tiles;
    body(first + row, (int)(count * (tile + 1) / tiles - row));
  }
}

// Calls Body<ROWS>::run for the number of rows that there are, at most MAX_ROWS. They are
// not inlined: in a function of their own all sums stay in registers.
template <template <int> class Body, class... Arguments>
inline void with_rows(int rows, Arguments&&... arguments) {
  switch (rows) {
#define GEMMARAY_ROWS(n)            \
  case n:                           \
    Body<n>::run(arguments...);     \
    break;
    GEMMARAY_ROWS(1)
    GEMMARAY_ROWS(2)
    GEMMARAY_ROWS(3)
    GEMMARAY_ROWS(4)
    GEMMARAY_ROWS(5)
    GEMMARAY_ROWS(6)
    GEMMARAY_ROWS(7)
    GEMMARAY_ROWS(8)
    GEMMARAY_ROWS(9)
    GEMMARAY_ROWS(10)
    GEMMARAY_ROWS(11)
    GEMMARAY_ROWS(12)
#undef GEMMARAY_ROWS
  }
}

}  // namespace gemmaray
