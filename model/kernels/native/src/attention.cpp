// Causal attention of packed queries over paged keys and values, soft cap and window included.
//
// A task is some queries of one sequence and a KV head, with all query heads that share it; lone
// queries may take several KV heads at once.
#include <cstdlib>
#include <vector>

#include "attention.h"

namespace gemmaray {
namespace {

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
