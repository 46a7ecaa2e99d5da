// Attention of one step over one layer's pages: what its tokens leave there is stored, then single tokens and stretches of
// tokens are shared out among the threads.
#pragma once

#include <atomic>
#include <optional>

#include "choose.h"
#include "team.h"

#ifdef DYNO_VECTORS
#include "stretch.h"
#endif

namespace dyno {

struct Stretch;

template <typename T>
struct Step {
  Paged paged;  // the tokens that stand alone
  Entries<T> fresh;
  const T* query;
  T *keys, *values, *out;
  const Stretch* stretches;
  int64_t count;          // of stretches
  const int64_t* firsts;  // of every token of the step: the first position it sees
  Selection selection;
};

// All tokens that attend only to some keys, those that stand alone first, and what they attend to.
struct Choice {
  std::vector<Viewer> viewers;
  int64_t words = 0;  // of a viewer
  std::vector<uint64_t> chosen;

  template <typename T>
  explicit Choice(const Step<T>& s) {
    const Paged& p = s.paged;
    if (!s.selection.heads) return;
    for (int64_t row = 0; row < p.rows; ++row)
      viewers.push_back({p.token(row), p.firsts[row], p.lasts[row], p.pages + row * p.table_width, p.table_starts[row]});
#ifdef DYNO_VECTORS
    for (const Stretch* own = s.stretches; own < s.stretches + s.count; ++own)
      for (int64_t token = own->start; token < own->stop; ++token)
        viewers.push_back({token, s.firsts[token], own->position + token - own->start, own->table, own->table_start});
#endif
    for (const Viewer& viewer : viewers) words = std::max(words, viewer.last / KEYS + 1);
    chosen.resize(viewers.size() * words);
  }
  const uint64_t* of(int64_t viewer) const { return words ? chosen.data() + viewer * words : nullptr; }
};

#ifdef DYNO_VECTORS
template <typename T>
std::vector<StretchTask<T>> tasks_of(const Step<T>& s, const Choice& choice, int threads) {
  std::vector<StretchTask<T>> tasks;
  int64_t before = s.paged.rows;  // viewers
  for (const Stretch* own = s.stretches; own < s.stretches + s.count; before += own->stop - own->start, ++own) {
    const int64_t size = task_tokens(s.paged, own->stop - own->start, threads);
    for (int64_t to = own->stop; to > own->start; to -= size)  // the last see most, so they come first
      for (int64_t kv = 0; kv < s.paged.kv_heads; ++kv)
        tasks.push_back({s.paged, *own, s.firsts, s.query, s.keys, s.values, s.out, kv, std::max(own->start, to - size), to,
                         choice.of(before), choice.words});
  }
  return tasks;
}
#endif

// Tasks of a row: one where there are rows enough for all threads and what its heads read of a block stays near the
// processor, else more, down to single heads.
template <typename T>
int64_t parts_of(const Paged& p, int threads) {
  constexpr int64_t NEAR = 1 << 18;
  if (p.rows < 4 * threads) return p.kv_heads;
  const int64_t bytes = KEYS * (p.key_dim + p.value_dim) * int64_t(sizeof(T));
  int64_t parts = 1;
  while (parts < p.kv_heads && (p.kv_heads % parts || p.kv_heads / parts * bytes > NEAR)) ++parts;
  return parts;
}

template <typename T, typename Way>
void share_out(const Step<T>& s, int threads) {
  const Paged& p = s.paged;
  const Chooser<T> chooser(p, s.selection, s.keys);
  Choice choice(s);
#ifdef DYNO_VECTORS
  const std::vector<StretchTask<T>> tasks = tasks_of(s, choice, threads);
#endif
  std::atomic<int64_t> turn{0}, stretch{0}, viewer{0};
  together(threads, [&](const Member& me) {
    if (s.fresh.slots) {
      me.part(s.fresh.count, [&](int64_t i) { s.fresh.store(p, i, s.keys, s.values); });
      me.meet();
    }
    if (choice.words) {
      std::vector<float> spare;
      for (size_t i; (i = viewer.fetch_add(1, std::memory_order_relaxed)) < choice.viewers.size();)
        chooser.template choose<Way>(choice.viewers[i], choice.chosen.data() + i * choice.words, spare);
      me.meet();
    }
#ifdef DYNO_VECTORS
    for (size_t task; (task = stretch.fetch_add(1, std::memory_order_relaxed)) < tasks.size();) tasks[task].run();
#endif
    const int64_t parts = parts_of<T>(p, threads), heads = p.kv_heads / parts;
    std::vector<float> scratch(heads * (p.room() + p.group()));
    const auto take = [&] { return turn.fetch_add(1, std::memory_order_relaxed); };
    const auto task_at = [&](int64_t i) {
      const int64_t from = i % parts * heads;
      return Task<T>{p, s.keys, s.values, i / parts, from, from + heads, choice.of(i / parts)};
    };
    for (int64_t i = take(), next; i < p.rows * parts; i = next) {
      const auto claim = [&] {
        next = take();
        return next < p.rows * parts ? std::optional(task_at(next)) : std::nullopt;
      };
      attend<T, Way>(task_at(i), claim, s.query, s.out, scratch.data());
    }
  });
}

template <typename T>
void attend_step(const Step<T>& s, int threads) {
#ifdef DYNO_VECTORS
  if (const Paged& p = s.paged; p.key_dim % 16 == 0 && p.value_dim % 16 == 0 && s.selection.dim % 16 == 0 && p.page_size % 16 == 0)
    return share_out<T, WideBlock<T>>(s, threads);
#endif
  share_out<T, PlainBlock<T>>(s, threads);
}

// The same as it comes through the door, of either type.
struct AttendCall {
  Paged paged;
  const void *query, *key, *value;
  int64_t key_stride, value_stride;
  const int64_t* slots;
  int64_t fresh;
  void *keys, *values, *out;
  const Stretch* stretches;
  int64_t count;
  const int64_t* firsts;
  Selection selection;
};

template <typename T>
void attend_as(const AttendCall& c, int threads) {
  const Entries<T> fresh{(const T*)c.key, (const T*)c.value, c.key_stride, c.value_stride, c.slots, c.fresh};
  attend_step(Step<T>{c.paged, fresh, (const T*)c.query, (T*)c.keys, (T*)c.values, (T*)c.out, c.stretches, c.count, c.firsts,
                      c.selection},
              threads);
}

}  // namespace dyno
