// Attention of one query over a paged cache, read in place; query heads share, by fours, every key and value that is read.
// Softmax runs online, in float, over blocks of 64 keys at fixed positions, so that a row's result does not depend on the other rows
// or on how the work is shared out.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "ahead.h"
#include "vector.h"

namespace dyno {

constexpr int64_t KEYS = 64, PIECES = 4;  // keys of a block; steps in which it is gone through
constexpr uint64_t ALL = ~uint64_t(0);    // of them, a bit each

struct Paged {
  int64_t rows, heads, kv_heads, key_dim, value_dim, page_size, table_width, key_stride, value_stride, query_stride;
  const int64_t *pages, *table_starts, *firsts, *lasts;
  const int64_t* tokens;  // of the step, which the rows are; null: the first of them
  const float *slopes, *sinks;
  float scale, softcap;

  int64_t group() const { return heads / kv_heads; }
  int64_t key_step() const { return kv_heads * key_stride; }  // from token to token in the pool
  int64_t value_step() const { return kv_heads * value_stride; }
  int64_t token(int64_t row) const { return tokens ? tokens[row] : row; }
  int64_t room() const { return group() * (value_dim + KEYS + 2); }  // numbers that a task keeps
};

// What one key head of a row keeps: sums of values, the logits of a block, the largest logit and the sum of weights, for each
// of its query heads.
struct Running {
  float *values, *logits, *top, *sum;
  Running(const Paged& p, float* scratch)
      : values(scratch), logits(values + p.group() * p.value_dim), top(logits + p.group() * KEYS), sum(top + p.group()) {}

  void begin(const Paged& p, int64_t kv) {
    std::fill(values, values + p.group() * p.value_dim, 0.0f);
    for (int64_t g = 0; g < p.group(); ++g) {
      top[g] = p.sinks ? p.sinks[kv * p.group() + g] : -std::numeric_limits<float>::infinity();
      sum[g] = p.sinks ? 1.0f : 0.0f;
    }
  }
};

// The keys of a block that a query sees: of [from, to), which are none where that is empty, those that are chosen. The first of the
// block lies `ahead` before the query.
struct Seen {
  int64_t from, to, ahead;
  uint64_t keys;  // a bit each

  Seen(int64_t from, int64_t to, int64_t ahead, uint64_t chosen = ALL)
      : from(from), to(to), ahead(ahead), keys(to > from ? chosen & ALL << from & ALL >> (KEYS - to) : 0) {}

  bool has(int64_t t) const { return keys >> t & 1; }
  uint32_t sixteen(int64_t j) const { return uint16_t(keys >> 16 * j); }
};

// Where the keys and values of a block are: of every `size` tokens that lie beside each other.
template <typename T, int64_t size>
struct Places {
  const T *keys[KEYS / size] = {}, *values[KEYS / size] = {};

  // Of the block at position `at`, as far as it is seen. entries: pages of the row from position `start` on.
  Places(const Paged& p, const Seen& seen, int64_t at, const int64_t* entries, int64_t start, const T* all_keys,
         const T* all_values) {
    const int64_t first = seen.from / size * size;
    int64_t page = (at + first - start) / p.page_size, offset = (at + first) % p.page_size;
    for (int64_t t = first; t < seen.to; t += size) {
      const int64_t token = entries[page] * p.page_size + offset;
      keys[t / size] = all_keys + token * p.key_step();
      values[t / size] = all_values + token * p.value_step();
      offset += size;
      if (offset == p.page_size) offset = 0, ++page;
    }
  }
};

// How a block is weighed and added, in plain C++: any dimension, any page, any processor.
template <typename T>
struct PlainBlock {
  static constexpr int64_t size = 1;
  using Block = Places<T, size>;

  template <typename Then>
  static void weigh(const Paged& p, int64_t kv, const T* query, const Block& block, const Seen& seen, Running& run, float* shrink,
                    const Then& then) {
    multiply(p, kv, query, block, seen, run.logits, then);
    for (int64_t g = 0; g < p.group(); ++g)
      shrink[g] = weigh_head(p, kv * p.group() + g, seen, run.logits + g * KEYS, run.top[g], run.sum[g]);
  }

  // Products of the heads of a group with the keys of a block that are seen: KEYS numbers a head.
  template <typename Then>
  static void multiply(const Paged& p, int64_t kv, const T* query, const Block& block, const Seen& seen, float* products,
                       const Then& then) {
    for (int64_t j = 0; j < PIECES; ++j) then(j);
    for (int64_t g = 0; g < p.group(); ++g, query += p.key_dim, products += KEYS)
      for (int64_t t = seen.from; t < seen.to; ++t) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < p.key_dim; ++d) sum += widen(query[d]) * widen(block.keys[t][kv * p.key_stride + d]);
        products[t] = sum;
      }
  }

  // Logits of one head before scale → weights e^(logit - top), the largest logit so far and the sum; returns what the sums
  // before must be multiplied by.
  static float weigh_head(const Paged& p, int64_t head, const Seen& seen, float* logits, float& top, float& sum) {
    const float before = top;
    for (int64_t t = seen.from; t < seen.to; ++t) {
      if (!seen.has(t)) continue;
      float l = logits[t] * p.scale;
      if (p.softcap > 0) l = p.softcap * std::tanh(l / p.softcap);
      if (p.slopes) l -= p.slopes[head] * static_cast<float>(seen.ahead - t);
      logits[t] = l;
      top = l > top || l != l ? l : top;  // what is no number stays so
    }
    const float shrink = before == top ? 1.0f : std::exp(before - top);
    sum *= shrink;
    for (int64_t t = seen.from; t < seen.to; ++t) sum += logits[t] = seen.has(t) ? std::exp(logits[t] - top) : 0.0f;
    return shrink;
  }

  template <typename Then>
  static void add(const Paged& p, int64_t kv, const Block& block, const Seen& seen, const float* shrink, Running& run,
                  const Then& then) {
    for (int64_t j = 0; j < PIECES; ++j) then(j);
    for (int64_t g = 0; g < p.group(); ++g) {
      float* sums = run.values + g * p.value_dim;
      for (int64_t v = 0; v < p.value_dim; ++v) sums[v] *= shrink[g];
      for (int64_t t = seen.from; t < seen.to; ++t)
        for (int64_t v = 0; v < p.value_dim; ++v)
          sums[v] += run.logits[g * KEYS + t] * widen(block.values[t][kv * p.value_stride + v]);
    }
  }
};

#ifdef DYNO_VECTORS
// The sum of weights, as a number or in sixteen parts.
inline void join(float& sum, float shrink, Vec more) { sum = sum * shrink + sum_of(more); }
inline void join(Vec& sum, float shrink, Vec more) { sum = fma(sum, all(shrink), more); }

// Logits of one query before scale → its weights e^(logit - top), given to put(at, 16 of them), zero where a key is not seen;
// the largest logit so far and the sum; returns what the sums before must be multiplied by. plain: all keys are seen, and
// nothing but the scale is between products and logits.
template <bool plain, typename Sum, typename Put>
inline float soften_as(const Paged& p, int64_t head, const Seen& seen, const float* logits, float& top, Sum& sum, const Put& put) {
  constexpr int64_t VECTORS = KEYS / 16;
  const Vec lowest = all(-std::numeric_limits<float>::infinity());
  Vec l[VECTORS], best = lowest;
  Mask real[VECTORS];
#pragma GCC unroll 4
  for (int64_t j = 0; j < VECTORS; ++j) {
    l[j] = load(logits + 16 * j) * all(p.scale);
    if constexpr (!plain) {
      real[j] = lanes(seen.sixteen(j));
      l[j] = keep(real[j], l[j]);
      if (p.softcap > 0) l[j] = all(p.softcap) * tangent(l[j] / all(p.softcap));
      if (p.slopes) l[j] = fnma(all(p.slopes[head]), all(static_cast<float>(seen.ahead - 16 * j)) - places(), l[j]);
    }
    best = largest(best, plain ? l[j] : pick(real[j], l[j], lowest));
  }
  const float before = top;
  if (any(above(best, all(before)))) top = std::max(before, largest_of(best));  // seldom, once a few blocks have been seen
  const float shrink = before == top ? 1.0f : std::exp(before - top);
  Vec total = zero();
#pragma GCC unroll 4
  for (int64_t j = 0; j < VECTORS; ++j) {
    const Vec raised = exponential(l[j] - all(top)), weights = plain ? raised : keep(real[j], raised);
    total = total + weights;
    put(16 * j, weights);
  }
  join(sum, shrink, total);  // what is no number is none here either
  return shrink;
}

template <typename Sum, typename Put>
inline float soften(const Paged& p, int64_t head, const Seen& seen, const float* logits, float& top, Sum& sum, const Put& put) {
  if (!seen.keys) {
    for (int64_t at = 0; at < KEYS; at += 16) put(at, zero());
    return 1.0f;
  }
  const bool plain = seen.keys == ALL && p.softcap <= 0 && !p.slopes;
  return plain ? soften_as<true>(p, head, seen, logits, top, sum, put) : soften_as<false>(p, head, seen, logits, top, sum, put);
}

// act(how many, from which on) for all of `count` heads, as many at a time as registers take.
template <typename Act>
inline void by_four(int64_t count, const Act& act) {
  int64_t g = 0;
  for (; g + 4 <= count; g += 4) act(std::integral_constant<int, 4>{}, g);
  if (count - g == 3) act(std::integral_constant<int, 3>{}, g);
  if (count - g == 2) act(std::integral_constant<int, 2>{}, g);
  if (count - g == 1) act(std::integral_constant<int, 1>{}, g);
}

// The same with vectors: dimensions and pages are multiples of 16.
template <typename T>
struct WideBlock {
  static constexpr int64_t size = 16;
  static constexpr int MOST_VALUES = SUMS / 6;  // vectors of a value beside four heads
  using Block = Places<T, size>;

  template <typename Then>
  static void weigh(const Paged& p, int64_t kv, const T* query, const Block& block, const Seen& seen, Running& run, float* shrink,
                    const Then& then) {
    multiply(p, kv, query, block, seen, run.logits, then);
    for (int64_t g = 0; g < p.group(); ++g) {
      float* logits = run.logits + g * KEYS;
      shrink[g] = soften(p, kv * p.group() + g, seen, logits, run.top[g], run.sum[g], [&](int64_t at, Vec w) { store(logits + at, w); });
    }
  }

  template <typename Then>
  static void multiply(const Paged& p, int64_t kv, const T* query, const Block& block, const Seen& seen, float* products,
                       const Then& then) {
    for (int64_t j = 0; j < PIECES; ++j) {
      then(j);
      if (!seen.sixteen(j)) continue;
      const T* keys = block.keys[j] + kv * p.key_stride;
      by_four(p.group(), [&](auto G, int64_t g) { dots<G>(p, query + g * p.key_dim, keys, products + g * KEYS + 16 * j); });
    }
  }

  // Products of G heads with 16 keys: what is read of them serves all heads.
  template <int G>
  static inline void dots(const Paged& p, const T* query, const T* keys, float* logits) {
    constexpr int TOGETHER = SUMS / 6;  // keys beside four heads
    using Q = Products<T>;
    const int64_t stride = p.key_step(), dim = p.key_dim;
    Vec products[G][16];
#pragma GCC unroll 4
    for (int t = 0; t < 16; t += TOGETHER) {
      const T* own = keys + t * stride;
      Vec sums[G][TOGETHER];
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
        for (int i = 0; i < TOGETHER; ++i) sums[g][i] = zero();
      int64_t d = 0;
      for (; d + Q::width <= dim; d += Q::width) {
        decltype(Q::take(query)) asked[G];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) asked[g] = Q::take(query + g * dim + d);
#pragma GCC unroll 4
        for (int i = 0; i < TOGETHER; ++i) {
          const auto key = Q::take(own + i * stride + d);
#pragma GCC unroll 4
          for (int g = 0; g < G; ++g) sums[g][i] = Q::add(sums[g][i], asked[g], key);
        }
      }
      for (; d < dim; d += 16)
#pragma GCC unroll 4
        for (int i = 0; i < TOGETHER; ++i) {
          const Vec key = load(own + i * stride + d);
#pragma GCC unroll 4
          for (int g = 0; g < G; ++g) sums[g][i] = fma(load(query + g * dim + d), key, sums[g][i]);
        }
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
        for (int i = 0; i < TOGETHER; ++i) products[g][t + i] = sums[g][i];
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) store(logits + g * KEYS, sums_of(products[g]));
  }

  // G heads from `head` on, V vectors of the value from `at` on.
  template <int G, int V, typename Then>
  static inline void slice(const Paged& p, int64_t kv, const Block& block, const Seen& seen, const float* shrink, Running& run,
                           int64_t head, int64_t at, const Then& then) {
    Vec sums[G][V];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sums[g][v] = load(run.values + (head + g) * p.value_dim + at + 16 * v) * all(shrink[head + g]);
    for (int64_t j = 0; j < PIECES; ++j) {
      then(j);
      if (!seen.sixteen(j)) continue;
      const T* values = block.values[j] + kv * p.value_stride + at;
      const float* weights = run.logits + head * KEYS + 16 * j;
      const int64_t from = std::max(seen.from - 16 * j, int64_t(0)), to = std::min(seen.to - 16 * j, int64_t(16));
      for (int64_t t = from; t < to; ++t) {
        Vec value[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) value[v] = load(values + t * p.value_step() + 16 * v);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
          const Vec weight = all(weights[g * KEYS + t]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[g][v] = fma(weight, value[v], sums[g][v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(run.values + (head + g) * p.value_dim + at + 16 * v, sums[g][v]);
  }

  template <typename Then>
  static void add(const Paged& p, int64_t kv, const Block& block, const Seen& seen, const float* shrink, Running& run,
                  const Then& then) {
    if (!seen.keys)
      for (int64_t j = 0; j < PIECES; ++j) then(j);
    for (int64_t at = 0; at < p.value_dim && seen.keys;) {
      const bool wide = at + 16 * MOST_VALUES <= p.value_dim;
      by_four(p.group(), [&](auto G, int64_t g) {
        const auto once = [&](int64_t j) { g == 0 && at == 0 ? then(j) : void(); };
        wide ? slice<G, MOST_VALUES>(p, kv, block, seen, shrink, run, g, at, once)
             : slice<G, 1>(p, kv, block, seen, shrink, run, g, at, once);
      });
      at += wide ? 16 * MOST_VALUES : 16;
    }
  }
};
#endif

// Some key heads of one row, which is a thread's to do.
template <typename T>
struct Task {
  const Paged& p;
  const T *keys, *values;
  int64_t row, from, to;   // key heads [from, to)
  const uint64_t* chosen;  // of each block, what the row attends to; null: all

  int64_t first() const { return p.firsts[row]; }
  int64_t last() const { return p.lasts[row]; }
  int64_t begin() const { return first() / KEYS * KEYS; }
  Seen seen(int64_t at) const {
    return {std::max(first() - at, int64_t(0)), std::min(last() + 1 - at, KEYS), last() - at, chosen ? chosen[at / KEYS] : ALL};
  }

  template <int64_t size>
  Places<T, size> places(int64_t at) const {
    return {p, seen(at), at, p.pages + row * p.table_width, p.table_starts[row], keys, values};
  }
};

// Ask for part `part` of `parts` of what a task will read of a block while another is worked on: pages lie anywhere, so the
// processor cannot guess it, and all at once would be in the way of what is read now. tokens: keys or values of the block; `width` numbers of a head, `stride` from token to token.
template <int64_t size, typename T>
inline void fetch(const Task<T>& task, const T* const* tokens, const Seen& seen, int64_t width, int64_t stride, int64_t part,
                  int64_t parts) {
  __asm__ volatile("");  // a function that does nothing but this would be left out by the compiler
  const int64_t bytes = (task.to - task.from) * width * int64_t(sizeof(T)), stop = std::min(KEYS * (part + 1) / parts, seen.to);
  for (int64_t t = std::max(KEYS * part / parts, seen.from); t < stop; ++t) {
    if (!seen.has(t)) continue;
    const char* own = (const char*)(tokens[t / size] + t % size * stride + task.from * width);
    for (const char* line = own - uintptr_t(own) % 64; line < own + bytes; line += 64) ask(line, true);
  }
}

// One task, block by block: all heads weigh its keys, then add its values, and meanwhile what comes next is asked for: the
// values, then the keys of the next block. claim() gives the task that this thread has next, if there is one; it is called
// as late as its first keys can still be asked for, so that no thread keeps a task that another could begin.
template <typename T, typename Way, typename Claim>
void attend(const Task<T>& task, const Claim& claim, const T* query, T* out, float* scratch) {
  constexpr int64_t size = Way::size;
  const Paged& p = task.p;
  const int64_t G = p.group(), from = task.from, heads = task.to - from;
  float* shrink = scratch + heads * p.room();
  const auto run = [&](int64_t h) { return Running(p, scratch + h * p.room()); };
  for (int64_t h = 0; h < heads; ++h) run(h).begin(p, from + h);
  const T* asked = query + p.token(task.row) * p.query_stride + from * G * p.key_dim;
  auto block = task.template places<size>(task.begin());
  std::optional<Task<T>> then;
  for (int64_t at = task.begin(); at <= task.last(); at += KEYS) {
    const Seen seen = task.seen(at);
    for (int64_t h = 0; h < heads; ++h) {
      const auto values = [&](int64_t j) {
        if (task.values != task.keys)
          fetch<size>(task, block.values, seen, p.value_stride, p.value_step(), h * PIECES + j, heads * PIECES);
      };
      Running mine = run(h);
      Way::weigh(p, from + h, asked + h * G * p.key_dim, block, seen, mine, shrink + h * G, values);
    }
    const bool more = at + KEYS <= task.last();
    if (!more)
      if (const auto claimed = claim()) then.emplace(*claimed);
    const Task<T>* owner = more ? &task : then ? &*then : nullptr;
    const int64_t next_at = more ? at + KEYS : owner ? owner->begin() : 0;
    const Seen next_seen = owner ? owner->seen(next_at) : Seen{0, 0, 0};
    const auto next = owner ? owner->template places<size>(next_at) : block;
    for (int64_t h = 0; h < heads; ++h) {
      const auto keys = [&](int64_t j) {
        if (owner) fetch<size>(*owner, next.keys, next_seen, p.key_stride, p.key_step(), h * PIECES + j, heads * PIECES);
      };
      Running mine = run(h);
      Way::add(p, from + h, block, seen, shrink + h * G, mine, keys);
    }
    block = next;
  }
  for (int64_t h = 0; h < heads; ++h) {
    const Running mine = run(h);
    T* to = out + (p.token(task.row) * p.heads + (from + h) * G) * p.value_dim;
    for (int64_t g = 0; g < G; ++g)
      for (int64_t v = 0; v < p.value_dim; ++v) narrow(mine.values[g * p.value_dim + v] / mine.sum[g], to + g * p.value_dim + v);
  }
}

// What the step's tokens leave in the cache: a key, and a value unless it lies in the key, at flat slots of the pools.
template <typename T>
struct Entries {
  const T *key, *value;
  int64_t key_stride, value_stride;  // from token to token
  const int64_t* slots;
  int64_t count;

  void store(const Paged& p, int64_t i, T* keys, T* values) const {
    const int64_t key_row = p.key_step(), value_row = p.kv_heads * p.value_dim;
    std::copy_n(key + i * key_stride, key_row, keys + slots[i] * key_row);
    if (value) std::copy_n(value + i * value_stride, value_row, values + slots[i] * value_row);
  }
};

}  // namespace dyno
