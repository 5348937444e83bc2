// Attention of a lone query, a decode: each key and value is read once, as it lies in its page.
#include <cstring>
#include <type_traits>

#include "attention.h"

namespace gemmaray {
namespace {

constexpr long SINGLE = 16;  // keys per block

// Keys and values of a lone query's block, those of the task's first KV head; the last one twice.
struct Block {
  long count;
  const bf16 *keys[SINGLE + 1], *values[SINGLE + 1];
};

inline Block block_at(const Attention& a, const Task& task, long first, long end) {
  Block block;
  block.count = std::clamp(end - first, 0L, SINGLE);
  if (block.count == 0) return block;
  for (long i = 0; i < block.count; i++) {
    const long offset = offset_of(a, task, first + i);
    block.keys[i] = a.keys + offset;
    block.values[i] = a.values + offset;
  }
  block.keys[block.count] = block.keys[block.count - 1];
  block.values[block.count] = block.values[block.count - 1];
  return block;
}

// Scores of a block's keys for HEADS rows from `row` on, two keys at a time. Meanwhile it fetches
// `ahead` elements of the values of each, and of the keys of the next block.
template <int HEADS>
__attribute__((noinline)) void score_block(Scratch& s, const bf16* queries, const Block& block,
                                           const Block& next, long offset, long size, long row,
                                           long ahead) {
  for (long i = 0; i < block.count; i += 2) {
    const bf16 *one = block.keys[i] + offset, *two = block.keys[i + 1] + offset;
    for (long line = 0; line < ahead; line += 32) {
      _mm_prefetch((const char*)(block.values[i] + line), _MM_HINT_T1);
      _mm_prefetch((const char*)(block.values[i + 1] + line), _MM_HINT_T1);
    }
    for (long line = 0; line < ahead && i < next.count; line += 32) {
      _mm_prefetch((const char*)(next.keys[i] + line), _MM_HINT_T1);
      _mm_prefetch((const char*)(next.keys[i + 1] + line), _MM_HINT_T1);
    }
    __m512 sums[2][HEADS];
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) sums[0][h] = sums[1][h] = _mm512_setzero_ps();
    for (long j = 0; j < size; j += 32) {
      const __m512i first = _mm512_loadu_si512(one + j), second = _mm512_loadu_si512(two + j);
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; h++) {
        const __m512i query = _mm512_loadu_si512(queries + h * size + j);
        Bf16::dot(sums[0][h], first, query);
        Bf16::dot(sums[1][h], second, query);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) {
      float* to = s.scores + (row + h) * KEYS + i;
      to[0] = _mm512_reduce_add_ps(sums[0][h]);
      to[1] = _mm512_reduce_add_ps(sums[1][h]);
    }
  }
}

// Adds the weighted values of a block to HEADS rows of the output, two keys at a time. The columns
// stay in the order in which unpacklo and unpackhi leave them, until `write_single`.
template <int HEADS>
__attribute__((noinline)) void mix_block(Scratch& s, const Block& block, long offset, long size,
                                         long row) {
  for (long column = 0; column < size; column += 2 * LANES) {
    __m512 sums[HEADS][2];
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) {
      sums[h][0] = _mm512_load_ps(s.out + (row + h) * size + column);
      sums[h][1] = _mm512_load_ps(s.out + (row + h) * size + column + LANES);
    }
    for (long i = 0; i < block.count; i += 2) {
      const __m512i even = _mm512_loadu_si512(block.values[i] + offset + column);
      const __m512i odd = _mm512_loadu_si512(block.values[i + 1] + offset + column);
      const __m512i low = _mm512_unpacklo_epi16(even, odd);
      const __m512i high = _mm512_unpackhi_epi16(even, odd);
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; h++) {
        int32_t pair;
        std::memcpy(&pair, s.weights + (row + h) * KEYS + i, sizeof pair);
        const __m512i weight = _mm512_set1_epi32(pair);
        Bf16::dot(sums[h][0], low, weight);
        Bf16::dot(sums[h][1], high, weight);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++) {
      _mm512_store_ps(s.out + (row + h) * size + column, sums[h][0]);
      _mm512_store_ps(s.out + (row + h) * size + column + LANES, sums[h][1]);
    }
  }
}

void write_single(const float* from, float sum, long size, bf16* out) {
  const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
  const __m512i second =
      _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
  const Vec factor = _mm512_set1_ps(1.0f / sum);
  for (long column = 0; column < size; column += 2 * LANES) {
    const Vec low = _mm512_load_ps(from + column), high = _mm512_load_ps(from + column + LANES);
    store_bf16(out + column, _mm512_mul_ps(_mm512_permutex2var_ps(low, first, high), factor));
    store_bf16(out + column + LANES,
               _mm512_mul_ps(_mm512_permutex2var_ps(low, second, high), factor));
  }
}

// Calls body(head, HEADS) for runs of 4, 2 and 1 of the query heads that share a KV head.
template <class Body>
inline void in_runs(long group, Body body) {
  long head = 0;
  for (; head + 4 <= group; head += 4) body(head, std::integral_constant<int, 4>());
  for (; head + 2 <= group; head += 2) body(head, std::integral_constant<int, 2>());
  if (head < group) body(head, std::integral_constant<int, 1>());
}

}  // namespace

// A lone query uses each key and value once, so its time is the memory's. It takes the keys of all
// of the task's KV heads together, since they lie side by side. The values are fetched while the
// scores are computed.
void attend_single(const Attention& a, const Task& task, Scratch& s) {
  const long size = a.size, group = a.group(), rows = task.kv_heads * group;
  const long token = a.query_starts[task.sequence] + task.first;
  const bf16* queries = a.queries + token * a.query_stride + task.kv_head * group * size;
  const Range range = seen(a, position(a, task, task.first));
  std::fill_n(s.sums, rows, 0.0f);
  std::fill_n(s.maxima, rows, -INFINITY);
  std::fill_n(s.out, rows * size, 0.0f);
  Block blocks[2] = {block_at(a, task, range.begin, range.end)};
  for (long key = range.begin, turn = 0; key < range.end; key += SINGLE, turn ^= 1) {
    const Block& block = blocks[turn];
    const Block& next = blocks[turn ^ 1] = block_at(a, task, key + SINGLE, range.end);
    for (long k = 0; k < task.kv_heads; k++) {
      const long ahead = k ? 0 : task.kv_heads * size;
      in_runs(group, [&](long head, auto heads) {
        const long row = k * group + head;
        score_block<heads>(s, queries + row * size, block, next, k * size, size, row,
                           head ? 0 : ahead);
      });
    }
    const long padded = (block.count + LANES - 1) / LANES * LANES;
    for (long row = 0; row < rows; row++) weigh(a, s, row, key, padded, range);
    for (long k = 0; k < task.kv_heads; k++) {
      in_runs(group, [&](long head, auto heads) {
        mix_block<heads>(s, block, k * size, size, k * group + head);
      });
    }
  }
  for (long row = 0; row < rows; row++) {
    write_single(s.out + row * size, s.sums[row], size,
                 a.out + (token * a.heads + task.kv_head * group + row) * size);
  }
}

}  // namespace gemmaray
