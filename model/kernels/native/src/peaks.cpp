// The best column of each row of logits, and what turns its score into a log-probability.
#include <algorithm>
#include <cmath>

#include "vec.h"

namespace gemmaray {
namespace {

// Sixteen scores; -inf beyond the end.
inline Vec scores_at(const bf16* row, long i, long width) {
  const __mmask16 lanes = first_lanes(width - i);
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, row + i));
  return _mm512_mask_blend_ps(lanes, _mm512_set1_ps(-INFINITY),
                              _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
}

// The first column of those that have the highest score.
inline long best_of(const bf16* row, long width, float& score) {
  Vec best = _mm512_set1_ps(-INFINITY);
  __m512i at = _mm512_setzero_si512();
  for (long i = 0; i < width; i += LANES) {
    const Vec here = scores_at(row, i, width);
    const __mmask16 better = _mm512_cmp_ps_mask(here, best, _CMP_GT_OQ);
    best = _mm512_mask_mov_ps(best, better, here);
    at = _mm512_mask_mov_epi32(at, better, _mm512_set1_epi32((int)i));
  }
  score = _mm512_reduce_max_ps(best);
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __mmask16 equal = _mm512_cmp_ps_mask(best, _mm512_set1_ps(score), _CMP_EQ_OQ);
  return _mm512_mask_reduce_min_epi32(equal, _mm512_add_epi32(at, lane));
}

inline float sum_of_exp(const bf16* row, long width, float score) {
  Vec sum = _mm512_setzero_ps();
  const Vec most = _mm512_set1_ps(score);
  for (long i = 0; i < width; i += LANES) {
    const Vec weight = exp(_mm512_sub_ps(scores_at(row, i, width), most));
    sum = _mm512_mask_add_ps(sum, first_lanes(width - i), sum, weight);
  }
  return _mm512_reduce_add_ps(sum);
}

}  // namespace

// logits [rows, stride]: of each row the best column, its score, and the log of its share of the
// softmax over [0, width); -inf where no score is finite.
extern "C" void gemmaray_peaks(const bf16* logits, long stride, long rows, long width, long* columns,
                               float* scores, float* log_p, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long r = 0; r < rows; r++) {
    const bf16* row = logits + r * stride;
    columns[r] = best_of(row, width, scores[r]);
    const bool none = scores[r] == -INFINITY;
    log_p[r] = none ? -INFINITY : -std::log(sum_of_exp(row, width, scores[r]));
  }
}

}  // namespace gemmaray
