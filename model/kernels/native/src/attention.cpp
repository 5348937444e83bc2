// Causal attention of packed queries over paged keys and values, soft cap and window included.
//
// A task is one KV head and a run of queries of one sequence, with all query heads that share the
// KV head. Runs of several queries go through the blocked products of `micro.h`, in the manner of
// FlashAttention-2 (Dao 2023, arXiv:2307.08691); a single query reads each key and value once, as
// it lies in its page.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "micro.h"

namespace gemmaray {
namespace {

constexpr long KEYS = 64;      // per block
constexpr long ROWS = 128;     // queries times heads per task
constexpr long MAX_SIZE = 256; // of a head
constexpr long SINGLE = 16;    // keys per block of a lone query
// exp of anything that a soft cap lets through stays within float32 and bfloat16.
constexpr float SAFE_CAP = 60.0f;

struct Attention {
  const bf16* queries;  // [tokens, query_stride]
  long query_stride;
  const bf16 *keys, *values;  // [slots, kv_heads, size]
  bf16* out;                  // [tokens, heads, size]
  long heads, kv_heads, size, page_size;
  const long* query_starts;  // [sequences + 1]
  const long* key_lens;      // [sequences]
  const long* first_keys;    // [sequences] position of the first slot of the page table
  const int32_t* tables;     // [sequences, table_stride] pages
  long table_stride;
  long window;  // keys that a query sees; 0 for all
  float scale, cap;  // cap 0 for none
  long group() const { return heads / kv_heads; }
};

struct Task {
  long sequence, kv_head, kv_heads, first, count;  // queries [first, first + count) of the sequence
};

struct Scratch {
  alignas(64) bf16 queries[ROWS * MAX_SIZE];
  alignas(64) bf16 keys[KEYS * MAX_SIZE];
  alignas(64) bf16 values[KEYS * MAX_SIZE];
  alignas(64) float scores[ROWS * KEYS];
  alignas(64) bf16 weights[ROWS * KEYS];
  alignas(64) float out[ROWS * MAX_SIZE];
  float sums[ROWS], maxima[ROWS];
};

struct Range {
  long begin, end;
};

inline long position(const Attention& a, const Task& task, long query) {
  const long* starts = a.query_starts + task.sequence;
  return a.key_lens[task.sequence] - (starts[1] - starts[0]) + query;
}

// Keys that a query at this position sees.
inline Range seen(const Attention& a, long position) {
  return {a.window ? std::max(0L, position + 1 - a.window) : 0, position + 1};
}

inline long offset_of(const Attention& a, const Task& task, long key) {
  const long at = key - a.first_keys[task.sequence];
  const long page = a.tables[task.sequence * a.table_stride + at / a.page_size];
  return ((page * a.page_size + at % a.page_size) * a.kv_heads + task.kv_head) * a.size;
}

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
void pack_keys(const Attention& a, const Task& task, long first, long count, bf16* out) {
  alignas(64) static const bf16 zeros[MAX_SIZE] = {};
  const long padded = (count + PANEL - 1) / PANEL * PANEL;
  for (long key = 0; key < padded; key += LANES) {
    const int32_t* rows[16];
    for (long i = 0; i < LANES; i++) {
      rows[i] = (const int32_t*)(key + i < count ? a.keys + offset_of(a, task, first + key + i)
                                                 : zeros);
    }
    int32_t* panel = (int32_t*)out + key / PANEL * a.size / 2 * PANEL + key % PANEL;
    for (long pair = 0; pair < a.size / 2; pair += LANES) {
      transpose(rows, pair, panel + pair * PANEL, PANEL);
    }
  }
}

// Packs values into panels [size / 32][keys / 2][32][2]; keys come in pairs, the last with zeros.
void pack_values(const Attention& a, const Task& task, long first, long count, long padded,
                 bf16* out) {
  for (long key = 0; key < padded; key += 2) {
    const bool one = key < count, two = key + 1 < count;
    const bf16* even = one ? a.values + offset_of(a, task, first + key) : nullptr;
    const bf16* odd = two ? a.values + offset_of(a, task, first + key + 1) : nullptr;
    for (long column = 0; column < a.size; column += PANEL) {
      bf16* to = out + column * padded + key * PANEL;
      for (long half = 0; half < PANEL; half += LANES) {
        __m512i low = _mm512_setzero_si512(), high = low;
        if (one) {
          low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(even + column + half)));
        }
        if (two) {
          high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(odd + column + half)));
        }
        _mm512_storeu_si512(to + 2 * half, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
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

inline Vec capped(const Attention& a, Vec score) {
  score = _mm512_mul_ps(score, _mm512_set1_ps(a.scale));
  return a.cap > 0 ? soft_cap(score, a.cap) : score;
}

// Turns one row's scores of the keys [first, first + count) into weights; those outside of
// `range` get none. Without a safe cap the row's maximum is kept, and what was added up before is
// scaled down when it grows.
void weigh(const Attention& a, Scratch& s, long row, long first, long padded, Range range) {
  float* scores = s.scores + row * KEYS;
  const bool shift = !(a.cap > 0 && a.cap <= SAFE_CAP);
  Vec most = _mm512_set1_ps(-INFINITY);
  for (long i = 0; i < padded; i += LANES) {
    const __mmask16 lanes = first_lanes(range.end - first - i) & ~first_lanes(range.begin - first - i);
    const Vec score = _mm512_mask_blend_ps(lanes, _mm512_set1_ps(-INFINITY),
                                           capped(a, _mm512_load_ps(scores + i)));
    if (shift) most = _mm512_max_ps(most, score);
    _mm512_store_ps(scores + i, score);
  }
  float maximum = 0;
  if (shift) {
    const float before = s.maxima[row];
    maximum = std::max(before, _mm512_reduce_max_ps(most));
    if (maximum == -INFINITY) maximum = 0;  // no key of this block, and none before
    else if (maximum > before) {
      const Vec factor = exp(_mm512_set1_ps(before == -INFINITY ? -87.0f : before - maximum));
      float* out = s.out + row * a.size;
      for (long i = 0; i < a.size; i += LANES) {
        _mm512_store_ps(out + i, _mm512_mul_ps(_mm512_load_ps(out + i), factor));
      }
      s.sums[row] *= _mm512_cvtss_f32(factor);
      s.maxima[row] = maximum;
    }
  }
  Vec sum = _mm512_setzero_ps();
  for (long i = 0; i < padded; i += LANES) {
    const Vec score = _mm512_load_ps(scores + i);
    const __mmask16 lanes = _mm512_cmp_ps_mask(score, _mm512_set1_ps(-INFINITY), _CMP_NEQ_OQ);
    const Vec weight = _mm512_maskz_mov_ps(lanes, exp(_mm512_sub_ps(score, _mm512_set1_ps(maximum))));
    sum = _mm512_add_ps(sum, weight);
    store_bf16(s.weights + row * KEYS + i, weight);
  }
  s.sums[row] += _mm512_reduce_add_ps(sum);
}

void attend_run(const Attention& a, const Task& task, Scratch& s) {
  const long group = a.group(), size = a.size, rows = task.count * group;
  const long token = a.query_starts[task.sequence] + task.first;
  for (long i = 0; i < task.count; i++) {
    std::memcpy(s.queries + i * group * size,
                a.queries + (token + i) * a.query_stride + task.kv_head * group * size,
                group * size * sizeof(bf16));
  }
  std::fill_n(s.out, rows * size, 0.0f);
  std::fill_n(s.sums, rows, 0.0f);
  std::fill_n(s.maxima, rows, -INFINITY);
  const long end = seen(a, position(a, task, task.first + task.count - 1)).end;
  for (long key = seen(a, position(a, task, task.first)).begin; key < end; key += KEYS) {
    const long count = std::min(KEYS, end - key);
    const long padded = (count + PANEL - 1) / PANEL * PANEL;
    pack_keys(a, task, key, count, s.keys);
    pack_values(a, task, key, count, padded, s.values);
    // The first of the rows that see any of these keys: the others lie wholly before them.
    const long skipped = std::max(0L, key - position(a, task, task.first)) * group;
    for (long row = skipped; row < rows; row += MAX_ROWS) {
      const int some = (int)std::min<long>(rows - row, MAX_ROWS);
      for (long panel = 0; panel < padded / PANEL; panel++) {
        with_rows<Score>(some, s, row, panel, size);
      }
    }
    for (long row = skipped; row < rows; row++) {
      weigh(a, s, row, key, padded, seen(a, position(a, task, task.first + row / group)));
    }
    for (long column = 0; column < size; column += PANEL) {
      for (long row = skipped; row < rows; row += MAX_ROWS) {
        with_rows<Mix>((int)std::min<long>(rows - row, MAX_ROWS), s, row, column, size, padded);
      }
    }
  }
  for (long row = 0; row < rows; row++) {
    const Vec factor = _mm512_set1_ps(1.0f / s.sums[row]);
    bf16* out = a.out + ((token + row / group) * a.heads + task.kv_head * group + row % group) * size;
    for (long i = 0; i < size; i += LANES) {
      store_bf16(out + i, _mm512_mul_ps(_mm512_load_ps(s.out + row * size + i), factor));
    }
  }
}

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

void attend(const Attention& a, const Task& task, Scratch& s) {
  task.count > 1 ? attend_run(a, task, s) : attend_single(a, task, s);
}

// Tasks of all sequences, those of many queries first: they take longest.
std::vector<Task> split(const Attention& a, long sequences, int threads) {
  std::vector<Task> tasks;
  const long run = std::max(1L, ROWS / a.group());
  // Lone queries share all KV heads of a sequence where there are tasks enough without splitting.
  const long together = sequences < 2L * threads ? 1 : std::min(a.kv_heads, run);
  for (const bool single : {false, true}) {
    for (long sequence = 0; sequence < sequences; sequence++) {
      const long count = a.query_starts[sequence + 1] - a.query_starts[sequence];
      if (count == 0 || (count == 1) != single) continue;
      // From the end, where a query sees the most keys.
      for (long first = (count - 1) / run * run; first >= 0; first -= run) {
        const long queries = std::min(run, count - first), step = queries > 1 ? 1 : together;
        for (long kv_head = 0; kv_head < a.kv_heads; kv_head += step) {
          const long kv_heads = std::min(step, a.kv_heads - kv_head);
          tasks.push_back({sequence, kv_head, kv_heads, first, queries});
        }
      }
    }
  }
  return tasks;
}

}  // namespace

extern "C" void gemmaray_attend(const bf16* queries, long query_stride, const bf16* keys,
                                const bf16* values, bf16* out, long heads, long kv_heads, long size,
                                long page_size, const long* query_starts, const long* key_lens,
                                const long* first_keys, const int32_t* tables, long table_stride,
                                long sequences, long window, float scale, float cap, int threads) {
  const Attention a = {queries,  query_stride, keys,       values, out,          heads,  kv_heads, size,
                       page_size, query_starts, key_lens, first_keys, tables, table_stride, window,
                       scale,    cap};
  const std::vector<Task> tasks = split(a, sequences, threads);
#pragma omp parallel num_threads(threads)
  {
    Scratch* scratch = static_cast<Scratch*>(std::aligned_alloc(64, sizeof(Scratch)));
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < tasks.size(); i++) attend(a, tasks[i], *scratch);
    std::free(scratch);
  }
}

}  // namespace gemmaray
