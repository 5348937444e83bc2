// Causal attention of packed queries over paged keys and values, soft cap and window included.
//
// A task has rows, which are queries times the query heads that share a KV head, and takes keys to
// them. It is one of two:
// - a run: consecutive queries of one sequence, and a KV head;
// - members: single queries of several sequences, and some KV heads. Keys that they share are taken to
//   all of them as one product, the others to each alone.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "attention.h"

namespace gemmaray {
namespace {

struct Task {
  long kv_head, kv_heads, count;
  const Member* members;  // `count` of them; or null for a run of as many queries, from `first` on
  Range shared;           // keys that all members have in the same place
  Member first;
};

// Puts one query's heads of a KV head into the scratch.
void begin_query(const Attention& a, long sequence, long query, long kv_head, long row, Scratch& s) {
  std::memcpy(s.queries + row * a.size, query_at(a, sequence, query, kv_head),
              a.group() * a.size * sizeof(bf16));
  begin_rows(a, s, row, a.group(), seen(a, sequence, query));
}

void attend_run(const Attention& a, const Task& task, Scratch& s) {
  const long group = a.group(), rows = task.count * group;
  const auto [sequence, first] = task.first;
  for (long i = 0; i < task.count; i++) {
    begin_query(a, sequence, first + i, task.kv_head, i * group, s);
  }
  const Range keys = {s.seen[0].begin, s.seen[rows - 1].end};
  take_blocks(a, {sequence, task.kv_head}, keys, 0, rows, s);
  for (long i = 0; i < task.count; i++) {
    write_rows(a, s, i * group, group, out_at(a, sequence, first + i, task.kv_head));
  }
}

// The part of shared keys that begins and ends at multiples of LANES, or begins where somebody sees any.
Range whole(Range shared, long earliest) {
  const long begin = std::max(aligned(shared.begin + LANES - 1), earliest), end = aligned(shared.end);
  return begin < end ? Range{begin, end} : Range{aligned(shared.begin), aligned(shared.begin)};
}

// Rows are ordered by KV head, then by member.
void attend_members(const Attention& a, const Task& task, Scratch& s) {
  const long group = a.group(), stride = task.count * group;
  long earliest = task.shared.end;  // before it nobody sees what is shared
  for (long k = 0; k < task.kv_heads; k++) {
    for (long i = 0; i < task.count; i++) {
      const auto [sequence, query] = task.members[i];
      const long row = k * stride + i * group;
      begin_query(a, sequence, query, task.kv_head + k, row, s);
      earliest = std::min(earliest, s.seen[row].begin);
    }
  }
  const Range shared = whole(task.shared, earliest);
  for (long k = 0; k < task.kv_heads; k++) {
    const Place place = {task.members[0].sequence, task.kv_head + k};
    take_blocks(a, place, shared, k * stride, stride, s);
  }
  Span spans[2 * ROWS];
  for (long i = 0; i < task.count; i++) {
    const long sequence = task.members[i].sequence, row = i * group;
    const Range keys = s.seen[row];
    spans[2 * i] = {sequence, {keys.begin, shared.begin}, row};
    spans[2 * i + 1] = {sequence, {std::max(keys.begin, shared.end), keys.end}, row};
  }
  take_spans(a, spans, 2 * task.count, task.kv_head, task.kv_heads, stride, s);
  for (long k = 0; k < task.kv_heads; k++) {
    for (long i = 0; i < task.count; i++) {
      const auto [sequence, query] = task.members[i];
      write_rows(a, s, k * stride + i * group, group,
                 out_at(a, sequence, query, task.kv_head + k));
    }
  }
}

// Adds tasks of members: few enough for the scratch, and `wanted` at least if there are as many.
void add_members(const Attention& a, const Member* members, long count, Range shared, long wanted,
                 std::vector<Task>& tasks) {
  // All KV heads together, since their keys lie side by side; but not if threads had nothing to do.
  const long fit = std::max(1L, ROWS / a.group());
  const long together = count < wanted ? 1 : std::min(a.kv_heads, fit), most = fit / together;
  const long parts = std::min(count, std::max((count + most - 1) / most, wanted));
  for (long part = 0; part < parts; part++) {
    const long first = count * part / parts, last = count * (part + 1) / parts;
    for (long kv_head = 0; kv_head < a.kv_heads; kv_head += together) {
      const long kv_heads = std::min(together, a.kv_heads - kv_head);
      tasks.push_back({kv_head, kv_heads, last - first, members + first, shared, {}});
    }
  }
}

// Adds tasks of a sequence's queries.
void add_runs(const Attention& a, long sequence, long count, std::vector<Task>& tasks) {
  const long run = std::max(1L, ROWS / a.group());
  // From the end, where a query sees the most keys.
  for (long first = (count - 1) / run * run; first >= 0; first -= run) {
    for (long kv_head = 0; kv_head < a.kv_heads; kv_head++) {
      tasks.push_back({kv_head, 1, std::min(run, count - first), nullptr, {}, {sequence, first}});
    }
  }
}

// Sequences that share keys, those of many queries, and the others, as tasks; the long ones first.
std::vector<Task> split(const Attention& a, long sequences, long groups, int threads,
                        std::vector<Member>& lone) {
  std::vector<Task> tasks;
  std::vector<char> sharing(sequences);
  for (long i = 0; i < a.shared_starts[groups]; i++) sharing[a.shared_queries[i].sequence] = 1;
  for (long sequence = 0; sequence < sequences; sequence++) {
    const long count = a.query_starts[sequence + 1] - a.query_starts[sequence];
    if (sharing[sequence] || count == 0) continue;
    if (count == 1) lone.push_back({sequence, 0});
    else add_runs(a, sequence, count, tasks);
  }
  for (long group = 0; group < groups; group++) {
    const long begin = a.shared_starts[group], end = a.shared_starts[group + 1];
    add_members(a, a.shared_queries + begin, end - begin, a.shared_keys[group],
                (threads + groups - 1) / groups, tasks);
  }
  if (!lone.empty()) add_members(a, lone.data(), lone.size(), {0, 0}, 4L * threads, tasks);
  return tasks;
}

}  // namespace

extern "C" void gemmaray_attend(const bf16* queries, long query_stride, const bf16* keys,
                                const bf16* values, bf16* out, long heads, long kv_heads, long size,
                                long page_size, const long* query_starts, const long* key_lens,
                                const long* first_keys, const int32_t* tables, long table_stride,
                                long sequences, const long* shared_starts, long shared_groups,
                                const Member* shared_queries, const Range* shared_keys, long window,
                                float scale, float cap, int threads) {
  const Attention a = {queries,       query_stride,   keys,        values,       out,
                       heads,         kv_heads,       size,        page_size,    query_starts,
                       key_lens,      first_keys,     tables,      table_stride, shared_starts,
                       shared_queries, shared_keys,   window,      scale,        cap};
  std::vector<Member> lone;
  const std::vector<Task> tasks = split(a, sequences, shared_groups, threads, lone);
#pragma omp parallel num_threads(threads)
  {
    Scratch* scratch = static_cast<Scratch*>(std::aligned_alloc(64, sizeof(Scratch)));
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < tasks.size(); i++) {
      (tasks[i].members ? attend_members : attend_run)(a, tasks[i], *scratch);
    }
    std::free(scratch);
  }
}

}  // namespace gemmaray
