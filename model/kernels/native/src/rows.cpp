// What happens to each token's row on its own: norms, rotation and the KV write, quantization.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "vec.h"

namespace gemmaray {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr long WORTH_THREADS = 1 << 16;

// 1 / rms of one row.
inline float inverse_rms(const bf16* x, long size, float eps) {
  Vec sum = _mm512_setzero_ps();
  for (long i = 0; i < size; i += LANES) {
    const Vec v = load_bf16(x + i);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  return 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / (float)size + eps);
}

inline void norm_row(const bf16* x, const float* gain, long size, float eps, bf16* out) {
  const Vec factor = _mm512_set1_ps(inverse_rms(x, size, eps));
  for (long i = 0; i < size; i += LANES) {
    const Vec y = _mm512_mul_ps(_mm512_mul_ps(load_bf16(x + i), factor), _mm512_loadu_ps(gain + i));
    store_bf16(out + i, y);
  }
}

// (x, y) turned by the angle whose cosine and sine are given, for 16 pairs.
inline void rotate_row(bf16* head, const float* cos, const float* sin, long half, bf16* out) {
  for (long i = 0; i < half; i += LANES) {
    const __mmask16 lanes = first_lanes(half - i);
    const Vec c = _mm512_maskz_loadu_ps(lanes, cos + i), s = _mm512_maskz_loadu_ps(lanes, sin + i);
    const Vec left = load_bf16(head + i), right = load_bf16(head + half + i);
    store_bf16(out + i, _mm512_fmsub_ps(left, c, _mm512_mul_ps(right, s)), lanes);
    store_bf16(out + half + i, _mm512_fmadd_ps(right, c, _mm512_mul_ps(left, s)), lanes);
  }
}

}  // namespace

extern "C" {

// out[r] = x[r] / rms(x[r]) * gain; size is a multiple of 16.
void gemmaray_rms_norm(const bf16* x, const float* gain, float eps, long rows, long size, bf16* out,
                       int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > WORTH_THREADS)
  for (long r = 0; r < rows; r++) norm_row(x + r * size, gain, size, eps, out + r * size);
}

// x[r] += norm(branch[r]) with one gain, in place; out[r] = norm(x[r]) with the other.
void gemmaray_add_norm(bf16* x, const bf16* branch, const float* branch_gain, const float* next_gain,
                       float eps, long rows, long size, bf16* out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > WORTH_THREADS)
  for (long r = 0; r < rows; r++) {
    bf16* stream = x + r * size;
    const bf16* added = branch + r * size;
    const Vec factor = _mm512_set1_ps(inverse_rms(added, size, eps));
    for (long i = 0; i < size; i += LANES) {
      const Vec y = _mm512_mul_ps(_mm512_mul_ps(load_bf16(added + i), factor),
                                  _mm512_loadu_ps(branch_gain + i));
      store_bf16(stream + i, _mm512_add_ps(load_bf16(stream + i), rounded(y)));
    }
    norm_row(stream, next_gain, size, eps, out + r * size);
  }
}

// Turns queries in place and keys on their way to the cache, where values go too.
// qkv [rows, stride]: query heads, KV heads of keys, of values, `size` each; cos, sin
// [rows, size / 2]; keys and values [slots, kv_heads, size].
void gemmaray_rotate_and_store(bf16* qkv, long stride, long rows, long heads, long kv_heads,
                               long size, const float* cos, const float* sin, const long* slots,
                               bf16* keys, bf16* values, int threads) {
  const long half = size / 2;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * stride > WORTH_THREADS)
  for (long r = 0; r < rows; r++) {
    bf16* row = qkv + r * stride;
    const float *c = cos + r * half, *s = sin + r * half;
    for (long h = 0; h < heads; h++) rotate_row(row + h * size, c, s, half, row + h * size);
    bf16* key = keys + slots[r] * kv_heads * size;
    for (long h = 0; h < kv_heads; h++) {
      rotate_row(row + (heads + h) * size, c, s, half, key + h * size);
    }
    std::memcpy(values + slots[r] * kv_heads * size, row + (heads + kv_heads) * size,
                kv_heads * size * sizeof(bf16));
  }
}

// out[r] = gelu_tanh(gate[r]) * up[r], rounded once; halves [rows, 2 * width] has gate, then up.
void gemmaray_geglu(const bf16* halves, long rows, long width, bf16* out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > WORTH_THREADS)
  for (long r = 0; r < rows; r++) {
    const bf16 *gate = halves + 2 * r * width, *up = gate + width;
    for (long i = 0; i < width; i += LANES) {
      const __mmask16 lanes = first_lanes(width - i);
      const Vec product = _mm512_mul_ps(gelu_tanh(load_bf16(gate + i, lanes)),
                                        load_bf16(up + i, lanes));
      store_bf16(out + r * width + i, product, lanes);
    }
  }
}

// out[r] = round(x[r] / scale[r]) + 128 with scale[r] = max |x[r]| / 127; size a multiple of 16.
void gemmaray_quantize_rows(const bf16* x, long stride, long rows, long size, uint8_t* out,
                            float* scale, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > WORTH_THREADS)
  for (long r = 0; r < rows; r++) {
    const bf16* row = x + r * stride;
    Vec most = _mm512_setzero_ps();
    for (long i = 0; i < size; i += LANES) {
      most = _mm512_max_ps(most, _mm512_abs_ps(load_bf16(row + i)));
    }
    const float largest = std::max(_mm512_reduce_max_ps(most), 1e-30f);
    scale[r] = largest / 127.0f;
    const Vec factor = _mm512_set1_ps(127.0f / largest);
    for (long i = 0; i < size; i += LANES) {
      const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(load_bf16(row + i), factor));
      const __m128i bytes = _mm512_cvtsepi32_epi8(q);
      _mm_storeu_si128((__m128i*)(out + r * size + i),
                       _mm_xor_si128(bytes, _mm_set1_epi8((char)0x80)));
    }
  }
}

}  // extern "C"
}  // namespace gemmaray
