// x * W^T with x in bfloat16 and W packed in four or eight bits, decoded on the way.
//
// Codes become bfloat16 numbers, whose products are added up as those of any weight; scales come
// afterwards, once per 64 values of k. A tile decodes in registers; where there are more tiles than
// one, the panel is decoded once before the first, to the layout of micro.h. Either way the same
// sums are added up in the same order, so a row's bits don't depend on how many there are.
#include <vector>

#include "product.h"

namespace gemmaray {
namespace {

constexpr long GROUP = 64;               // values of k that share a scale
constexpr long PAIRS = GROUP / 2;
constexpr long DECODED = GROUP * PANEL;  // values of a group

enum Kind : int { INT4 = 0, NF4 = 1, INT8 = 2 };

struct Codes {
  const uint8_t* codes;  // [panels][groups] of as many bytes as a group has
  const void* scale;     // [panels][groups][32]: bfloat16 of INT4, float of NF4; [panels][32] of INT8
  const bf16* low;       // [panels][groups][32] of INT4
  const bf16* table;     // [32] the values of the four-bit codes, twice
  float* x_sums;         // [rows][groups] of INT4: room for the sums of x
};

// Of 16 columns, the values of two k side by side, as the dot product wants them.
inline __m512i paired(__m512i even, __m512i odd) {
  const __m512i order = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
      23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(odd), _mm512_cvtepi32_ps(even));
  return _mm512_permutexvar_epi16(order, (__m512i)both);
}

// Calls use(pair of k, 16 columns of it, the other 16) for each of a group.
template <int KIND, class Use>
inline __attribute__((always_inline)) void decode(const uint8_t* codes, __m512i table, Use use) {
  if (KIND != INT8) {  // 16 bits hold four values of k of one parity, the first in the lowest bits
    for (long pair = 0; pair < PAIRS; pair += 4, codes += 4 * PANEL) {
      __m512i left = _mm512_loadu_si512(codes), right = _mm512_loadu_si512(codes + 64);
#pragma GCC unroll 4
      for (long i = 0; i < 4; i++) {
        use(pair + i, _mm512_permutexvar_epi16(left, table),
            _mm512_permutexvar_epi16(right, table));
        left = _mm512_srli_epi16(left, 4);
        right = _mm512_srli_epi16(right, 4);
      }
    }
  } else {  // 32 bits hold four values of k
    for (long pair = 0; pair < PAIRS; pair += 2, codes += 4 * PANEL) {
      const __m512i left = _mm512_loadu_si512(codes), right = _mm512_loadu_si512(codes + 64);
      const auto at = [](__m512i lanes, int shift) {
        return _mm512_srai_epi32(_mm512_sll_epi32(lanes, _mm_cvtsi32_si128(shift)), 24);
      };
      use(pair, paired(at(left, 24), at(left, 16)), paired(at(right, 24), at(right, 16)));
      use(pair + 1, paired(at(left, 8), at(left, 0)), paired(at(right, 8), at(right, 0)));
    }
  }
}

struct Rows {
  const Job& job;
  const Codes& codes;
  long panel, groups;
  const uint8_t* packed;  // the panel's codes
  const bf16* decoded;    // all of the panel, or null
  __m512i table;
};

template <int KIND>
constexpr long group_bytes() {
  return KIND == INT8 ? DECODED : DECODED / 2;
}

// What a group's sums are multiplied by, and of INT4 what the sums of x are.
struct Scales {
  Vec factor[2], low[2];
};

template <int KIND>
inline Scales scales_of(const Rows& r, long group) {
  Scales scales;
  const long column = (r.panel * r.groups + group) * PANEL;
#pragma GCC unroll 2
  for (long half = 0; half < 2; half++) {
    const long at = column + half * LANES;
    scales.factor[half] = KIND == INT4 ? load_bf16((const bf16*)r.codes.scale + at)
                                       : _mm512_loadu_ps((const float*)r.codes.scale + at);
    if (KIND == INT4) scales.low[half] = load_bf16(r.codes.low + at);
  }
  return scales;
}

template <int KIND>
struct Tile {
  template <int ROWS>
  struct Of {
    static __attribute__((noinline)) void run(const Rows& r, long row) {
      const auto* a = (const bf16*)r.job.x + row * r.job.stride;
      const int32_t* pairs[ROWS];
      Vec sums[ROWS][2], totals[ROWS][2];
#pragma GCC unroll 12
      for (int i = 0; i < ROWS; i++) {
        pairs[i] = (const int32_t*)(a + i * r.job.stride);
        sums[i][0] = sums[i][1] = totals[i][0] = totals[i][1] = Bf16::zero();
      }
      for (long group = 0; group < r.groups; group++) {
        if (r.decoded) {
          accumulate<Bf16, ROWS>(a + group * GROUP, r.job.stride, r.decoded + group * DECODED,
                                 PAIRS, sums);
        } else {
          decode<KIND>(r.packed + group * group_bytes<KIND>(), r.table,
                       [&](long pair, __m512i left, __m512i right) {
#pragma GCC unroll 12
                         for (int i = 0; i < ROWS; i++) {
                           const __m512i x = _mm512_set1_epi32(pairs[i][group * PAIRS + pair]);
                           Bf16::dot(sums[i][0], x, left);
                           Bf16::dot(sums[i][1], x, right);
                         }
                       });
        }
        if (KIND == INT8) continue;  // its scale is the same for all groups
        const Scales scales = scales_of<KIND>(r, group);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
          const Vec x_sum =
              _mm512_set1_ps(KIND == INT4 ? r.codes.x_sums[(row + i) * r.groups + group] : 0);
#pragma GCC unroll 2
          for (int half = 0; half < 2; half++) {
            Vec& total = totals[i][half];
            if (KIND == INT4) total = _mm512_fmadd_ps(scales.low[half], x_sum, total);
            total = _mm512_fmadd_ps(sums[i][half], scales.factor[half], total);
            sums[i][half] = Bf16::zero();
          }
        }
      }
#pragma GCC unroll 12
      for (int i = 0; i < ROWS; i++) {
        if (KIND != INT8) {
          finish(r.job, totals[i][0], totals[i][1], row + i, r.panel);
        } else {
          const float* largest = (const float*)r.codes.scale + r.panel * PANEL;
          const Vec step = _mm512_set1_ps(1.0f / 127);
          const Vec left = _mm512_mul_ps(_mm512_loadu_ps(largest), step);
          const Vec right = _mm512_mul_ps(_mm512_loadu_ps(largest + LANES), step);
          finish(r.job, _mm512_mul_ps(sums[i][0], left), _mm512_mul_ps(sums[i][1], right), row + i,
                 r.panel);
        }
      }
    }
  };
};

// Memory of this thread, aligned for vectors, that is kept for the next call.
bf16* room(long values) {
  static thread_local std::vector<bf16> kept;
  const size_t needed = values + 32;
  if (kept.size() < needed) kept.resize(needed);
  return (bf16*)(((uintptr_t)kept.data() + 63) / 64 * 64);
}

void sum_groups(const Job& job, float* sums, int threads) {
  const __m512i ones = _mm512_set1_epi16(0x3f80);
  const long groups = job.depth / GROUP;
#pragma omp parallel for schedule(static) num_threads(threads) if (job.rows > 16)
  for (long row = 0; row < job.rows; row++) {
    const bf16* x = (const bf16*)job.x + row * job.stride;
    for (long group = 0; group < groups; group++) {
      Vec sum = Bf16::zero();
      for (long k = 0; k < GROUP; k += 2 * LANES) {
        Bf16::dot(sum, _mm512_loadu_si512(x + group * GROUP + k), ones);
      }
      sums[row * groups + group] = _mm512_reduce_add_ps(sum);
    }
  }
}

template <int KIND>
void multiply(const Job& job, const Codes& codes, long panels, int threads) {
  if (job.rows == 0) return;
  if (KIND == INT4) sum_groups(job, codes.x_sums, threads);
  const __m512i table = KIND == INT8 ? _mm512_setzero_si512() : _mm512_loadu_si512(codes.table);
  const long block = rows_per_block(job.rows, panels, threads);
  const long blocks = (job.rows + block - 1) / block;
  const long groups = job.depth / GROUP;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (long panel = 0; panel < panels; panel++) {
    for (long part = 0; part < blocks; part++) {
      const long first = part * block, count = std::min(block, job.rows - first);
      const uint8_t* packed = codes.codes + panel * groups * group_bytes<KIND>();
      bf16* decoded = count > MAX_ROWS ? room(groups * DECODED) : nullptr;
      for (long group = 0; decoded && group < groups; group++) {
        decode<KIND>(packed + group * group_bytes<KIND>(), table,
                     [&](long pair, __m512i left, __m512i right) {
                       bf16* out = decoded + group * DECODED + pair * 2 * PANEL;
                       _mm512_store_si512(out, left);
                       _mm512_store_si512(out + PANEL, right);
                     });
      }
      const Rows rows = {job, codes, panel, groups, packed, decoded, table};
      in_tiles(first, count, [&](long row, int height) {
        with_rows<Tile<KIND>::template Of>(height, rows, row);
      });
    }
  }
}

}  // namespace

extern "C" {

void gemmaray_linear_coded(int kind, const bf16* x, long stride, long rows, long depth,
                           const uint8_t* packed, const void* scale, const bf16* low,
                           const bf16* table, float* x_sums, long panels, const float* bias,
                           int finish, bf16* out, long width, int threads) {
  const Job job = {x,     stride,  packed,  out,     rows, depth,
                   width, nullptr, nullptr, nullptr, bias, 0.0f,  finish};
  const Codes codes = {packed, scale, low, table, x_sums};
  if (kind == INT4) multiply<INT4>(job, codes, panels, threads);
  if (kind == NF4) multiply<NF4>(job, codes, panels, threads);
  if (kind == INT8) multiply<INT8>(job, codes, panels, threads);
}

}  // extern "C"
}  // namespace gemmaray
