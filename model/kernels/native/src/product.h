// What a product with packed weights is asked for, and what follows it: bias, GeGLU, soft cap.
#pragma once

#include <algorithm>

#include "micro.h"

namespace gemmaray {

// What becomes of the sums. The order is `Finish` in linear.py.
enum Finish : int { PLAIN = 0, GEGLU = 1, SOFT_CAP = 2 };

struct Job {
  const void* x;       // [rows, depth] bfloat16, or uint8 = int8 + 128
  long stride;         // of x, in elements
  const void* panels;  // packed weights
  bf16* out;           // [rows, width]
  long rows, depth, width;
  const float* x_scale;     // [rows] of int8 rows
  const float* scale;       // [packed columns] of int8 weights
  const int32_t* offset;    // [packed columns] 128 * sum of the int8 weights
  const float* bias;        // [packed columns] or null
  float cap;
  int finish;
};

inline void finish(const Job& job, Vec left, Vec right, long row, long panel) {
  bf16* out = job.out + row * job.width;
  const long first = panel * PANEL;
  if (job.bias) {
    left = _mm512_add_ps(left, _mm512_loadu_ps(job.bias + first));
    right = _mm512_add_ps(right, _mm512_loadu_ps(job.bias + first + LANES));
  }
  if (job.finish == GEGLU) {  // 16 columns of gate, then the same 16 of up
    const long column = panel * LANES;
    store_bf16(out + column, _mm512_mul_ps(gelu_tanh(left), right),
               first_lanes(job.width - column));
    return;
  }
  if (job.finish == SOFT_CAP) {
    left = soft_cap(left, job.cap);
    right = soft_cap(right, job.cap);
  }
  if (job.width - first >= PANEL) {
    store_bf16(out + first, left);
    store_bf16(out + first + LANES, right);
  } else {
    store_bf16(out + first, left, first_lanes(job.width - first));
    store_bf16(out + first + LANES, right, first_lanes(job.width - first - LANES));
  }
}

// How many rows of a product are computed in one go: a panel is read once per block of them, so
// blocks are as long as the threads allow.
inline long rows_per_block(long rows, long panels, int threads) {
  const long wanted = 4L * threads;
  const long blocks = panels >= wanted ? 1 : std::min((wanted + panels - 1) / panels,
                                                      (rows + MAX_ROWS - 1) / MAX_ROWS);
  return ((rows + blocks - 1) / blocks + MAX_ROWS - 1) / MAX_ROWS * MAX_ROWS;
}

}  // namespace gemmaray
