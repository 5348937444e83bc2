// x * W^T in bfloat16 with W packed in four or eight bits, decoded on the way.
//
// The panels are those of bfloat16, 64 values of k at a time. A tile of a few rows decodes each of
// those into the first cache and goes on; where there are more tiles than one, the whole panel is
// decoded before the first. Sums are added up in the same order either way, so the bits don't depend
// on how many rows there are.
#include <vector>

#include "product.h"

namespace gemmaray {
namespace {

constexpr long GROUP = 64;                 // values of k that share a scale
constexpr long DECODED = GROUP * PANEL;    // values of a group
constexpr long HALF = PANEL / 2;

enum Kind : int { INT4 = 0, NF4 = 1, INT8 = 2 };

struct Codes {
  int kind;
  const uint8_t* codes;  // a panel's groups one after the other
  const void* scale;     // [groups][32] of a panel: bfloat16 of INT4, float of NF4; [32] of INT8
  const bf16* low;       // [groups][32] of INT4
  const float* table;    // [16] of the four-bit kinds
};

// Of 16 columns, the values of two k rounded and side by side, as the dot product wants them.
inline __m512i paired(Vec even, Vec odd) {
  const __m512i order = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
      23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

// A lane holds eight values of k of its column, four bits each, the first in the lowest.
inline void decode4(const uint8_t* codes, Vec table, Vec scale, Vec low, bf16* out) {
  for (long k = 0; k < GROUP; k += 8, codes += 4 * PANEL) {
    __m512i lanes = _mm512_loadu_si512(codes);
#pragma GCC unroll 4
    for (long pair = 0; pair < 4; pair++) {
      const Vec even = _mm512_permutexvar_ps(lanes, table);
      const Vec odd = _mm512_permutexvar_ps(_mm512_srli_epi32(lanes, 4), table);
      _mm512_store_si512(out + (k + 2 * pair) * PANEL, paired(_mm512_fmadd_ps(even, scale, low),
                                                              _mm512_fmadd_ps(odd, scale, low)));
      lanes = _mm512_srli_epi32(lanes, 8);
    }
  }
}

// A lane holds four values of k of its column.
inline void decode8(const uint8_t* codes, Vec scale, bf16* out) {
  // bitsandbytes multiplies by the largest magnitude first, and then by its 1 / 127.
  const Vec step = _mm512_set1_ps(7.874015718698502e-3f);
  const auto value = [&](__m512i lanes) {
    const Vec code = _mm512_cvtepi32_ps(_mm512_srai_epi32(lanes, 24));
    return _mm512_mul_ps(_mm512_mul_ps(code, scale), step);
  };
  for (long k = 0; k < GROUP; k += 4, codes += 4 * PANEL) {
    const __m512i lanes = _mm512_loadu_si512(codes);
    _mm512_store_si512(out + k * PANEL, paired(value(_mm512_slli_epi32(lanes, 24)),
                                               value(_mm512_slli_epi32(lanes, 16))));
    _mm512_store_si512(out + (k + 2) * PANEL,
                       paired(value(_mm512_slli_epi32(lanes, 8)), value(lanes)));
  }
}

// Decodes one group of a panel to [32 pairs of k][32 columns][2].
inline void decode(const Codes& c, long panel, long groups, long group, bf16* out) {
  const long at = panel * groups + group;
  for (long half = 0; half < 2; half++, out += 2 * HALF) {
    const long column = at * PANEL + half * HALF;
    if (c.kind == INT8) {
      const Vec scale = _mm512_loadu_ps((const float*)c.scale + panel * PANEL + half * HALF);
      decode8(c.codes + at * DECODED + half * 4 * HALF, scale, out);
      continue;
    }
    const uint8_t* codes = c.codes + at * DECODED / 2 + half * 4 * HALF;
    const Vec table = _mm512_loadu_ps(c.table);
    if (c.kind == INT4) {
      decode4(codes, table, load_bf16((const bf16*)c.scale + column), load_bf16(c.low + column),
              out);
    } else {
      decode4(codes, table, _mm512_loadu_ps((const float*)c.scale + column),
              _mm512_setzero_ps(), out);
    }
  }
}

struct Rows {
  const Job& job;
  const Codes& codes;
  long panel;
  bf16* decoded;  // of the whole panel if `ready`, else room for a group
  bool ready;
};

template <int ROWS>
struct Tile {
  static __attribute__((noinline)) void run(const Rows& r, long row) {
    const Job& job = r.job;
    Vec sums[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++) sums[i][0] = sums[i][1] = Bf16::zero();
    const long groups = job.depth / GROUP;
    const auto* a = (const bf16*)job.x + row * job.stride;
    for (long group = 0; group < groups; group++) {
      if (!r.ready) decode(r.codes, r.panel, groups, group, r.decoded);
      const bf16* b = r.decoded + (r.ready ? group * DECODED : 0);
      accumulate<Bf16, ROWS>(a + group * GROUP, job.stride, b, GROUP / Bf16::DEPTH, sums);
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++) finish(job, sums[i][0], sums[i][1], row + i, r.panel);
  }
};

// Memory of this thread, aligned for vectors, that is kept for the next call.
bf16* room(long values) {
  static thread_local std::vector<bf16> kept;
  const size_t needed = values + 32;
  if (kept.size() < needed) kept.resize(needed);
  return (bf16*)(((uintptr_t)kept.data() + 63) / 64 * 64);
}

void multiply(const Job& job, const Codes& codes, long panels, int threads) {
  if (job.rows == 0) return;
  const long block = rows_per_block(job.rows, panels, threads);
  const long blocks = (job.rows + block - 1) / block;
  const long groups = job.depth / GROUP;
#pragma omp parallel num_threads(threads)
  {
    bf16* decoded = room((block > MAX_ROWS ? groups : 1) * DECODED);
#pragma omp for collapse(2) schedule(static)
    for (long panel = 0; panel < panels; panel++) {
      for (long part = 0; part < blocks; part++) {
        const long first = part * block, count = std::min(block, job.rows - first);
        const Rows rows = {job, codes, panel, decoded, count > MAX_ROWS};
        for (long group = 0; rows.ready && group < groups; group++) {
          decode(codes, panel, groups, group, decoded + group * DECODED);
        }
        in_tiles(first, count, [&](long row, int height) { with_rows<Tile>(height, rows, row); });
      }
    }
  }
}

}  // namespace

extern "C" {

void gemmaray_linear_coded(int kind, const bf16* x, long stride, long rows, long depth,
                           const uint8_t* packed, const void* scale, const bf16* low,
                           const float* table, long panels, const float* bias, int finish,
                           bf16* out, long width, int threads) {
  const Job job = {x,     stride,  packed,  out,     rows, depth,
                   width, nullptr, nullptr, nullptr, bias, 0.0f,  finish};
  multiply(job, {kind, packed, scale, low, table}, panels, threads);
}

}  // extern "C"
}  // namespace gemmaray
