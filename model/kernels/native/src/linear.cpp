// x * W^T with W packed beforehand, and what follows it: bias, GeGLU, soft cap.
#include "product.h"

namespace gemmaray {
namespace {

inline Vec value(const Job&, Vec sum, long, long) { return sum; }

inline Vec value(const Job& job, __m512i sum, long row, long column) {
  sum = _mm512_sub_epi32(sum, _mm512_loadu_si512(job.offset + column));
  const Vec scale = _mm512_mul_ps(_mm512_loadu_ps(job.scale + column),
                                  _mm512_set1_ps(job.x_scale[row]));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
}

template <class Kind>
struct Tile {
  template <int ROWS>
  struct Of {
    static __attribute__((noinline)) void run(const Job& job, long row, long panel,
                                              const char* later) {
      typename Kind::Sum sums[ROWS][2];
#pragma GCC unroll 12
      for (int i = 0; i < ROWS; i++) sums[i][0] = sums[i][1] = Kind::zero();
      const long groups = job.depth / Kind::DEPTH;
      const auto* b = (const typename Kind::B*)job.panels + panel * job.depth * PANEL;
      const auto* a = (const typename Kind::A*)job.x + row * job.stride;
      accumulate<Kind, ROWS>(a, job.stride, b, groups, sums, later);
#pragma GCC unroll 12
      for (int i = 0; i < ROWS; i++) {
        const long first = panel * PANEL;
        finish(job, value(job, sums[i][0], row + i, first),
               value(job, sums[i][1], row + i, first + LANES), row + i, panel);
      }
    }
  };
};

template <class Kind>
void multiply(const Job& job, long panels, int threads) {
  if (job.rows == 0) return;  // the last layer, in a step that nobody wants a row of
  const long block = rows_per_block(job.rows, panels, threads);
  const long blocks = (job.rows + block - 1) / block;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (long panel = 0; panel < panels; panel++) {
    for (long part = 0; part < blocks; part++) {
      const long first = part * block, count = std::min(block, job.rows - first);
      // The next panel is fetched during the first two passes over this one, half in each; with
      // a single pass, memory is busy anyway.
      const long bytes = job.depth * PANEL * sizeof(typename Kind::B);
      const char* next = (const char*)job.panels + std::min(panel + 1, panels - 1) * bytes;
      long pass = count <= MAX_ROWS ? 2 : 0;
      in_tiles(first, count, [&](long row, int height) {
        const char* later = pass > 1 ? nullptr : next + pass * bytes / 2;
        with_rows<Tile<Kind>::template Of>(height, job, row, panel, later);
        pass++;
      });
    }
  }
}

template <class T>
void pack(const T* weight, long depth, const long* order, long panels, long group, T* out,
          int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long panel = 0; panel < panels; panel++) {
    for (long column = 0; column < PANEL; column++) {
      const long from = order[panel * PANEL + column];
      T* to = out + panel * depth * PANEL + column * group;
      for (long k = 0; k < depth; k += group) {
        for (long i = 0; i < group; i++) {
          to[k * PANEL + i] = from < 0 ? 0 : weight[from * depth + k + i];
        }
      }
    }
  }
}

}  // namespace

extern "C" {

// Packs the rows order[..] of weight [N, depth] into panels; a row of -1 is all zeros.
void gemmaray_pack_bf16(const bf16* weight, long depth, const long* order, long panels, bf16* out,
                        int threads) {
  pack(weight, depth, order, panels, Bf16::DEPTH, out, threads);
}

void gemmaray_pack_int8(const int8_t* weight, long depth, const long* order, long panels,
                        int8_t* out, int threads) {
  pack(weight, depth, order, panels, Int8::DEPTH, out, threads);
}

void gemmaray_linear_bf16(const bf16* x, long stride, long rows, long depth, const bf16* packed,
                          long panels, const float* bias, int finish, float cap, bf16* out,
                          long width, int threads) {
  const Job job = {x,     stride,  packed,  out,     rows, depth,
                   width, nullptr, nullptr, nullptr, bias, cap,   finish};
  multiply<Bf16>(job, panels, threads);
}

void gemmaray_linear_int8(const uint8_t* x, const float* x_scale, long rows, long depth,
                          const int8_t* packed, const float* scale, const int32_t* offset,
                          long panels, const float* bias, int finish, float cap, bf16* out,
                          long width, int threads) {
  const Job job = {x,     depth,   packed, out,    rows, depth,
                   width, x_scale, scale,  offset, bias, cap,   finish};
  multiply<Int8>(job, panels, threads);
}

// Rows ids[..] of a packed bfloat16 table, times `scale`, rounded: out [count, depth].
void gemmaray_embed(const bf16* packed, long depth, const long* ids, long count, float scale,
                    bf16* out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > 16)
  for (long i = 0; i < count; i++) {
    const bf16* from =
        packed + ids[i] / PANEL * depth * PANEL + ids[i] % PANEL * Bf16::DEPTH;
    alignas(64) bf16 row[2 * LANES];
    for (long k = 0; k < depth; k += 2 * LANES) {
      const long count_here = std::min(2 * LANES, depth - k);
      for (long j = 0; j < count_here; j++) row[j] = from[(k + j) / 2 * 2 * PANEL + (k + j) % 2];
      const Vec factor = _mm512_set1_ps(scale);
      store_bf16(out + i * depth + k, _mm512_mul_ps(load_bf16(row), factor),
                 first_lanes(count_here));
      if (count_here > LANES) {
        store_bf16(out + i * depth + k + LANES, _mm512_mul_ps(load_bf16(row + LANES), factor),
                   first_lanes(count_here - LANES));
      }
    }
  }
}

}  // extern "C"
}  // namespace gemmaray
