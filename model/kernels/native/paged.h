// Attention of one query over a paged cache, read in place; query heads share every key and value that is read. Softmax
// runs online, 16 tokens at a time, in float, so that a row's result does not depend on the other rows or on how the work
// is shared out.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vector.h"

namespace dyno {

struct Paged {
  int64_t rows, heads, kv_heads, key_dim, value_dim, page_size, table_width, value_stride, query_stride;
  const int64_t *pages, *table_starts, *firsts, *lasts;
  const int64_t* tokens;  // of the step, which the rows are; null: the first of them
  const float *slopes, *sinks;
  float scale, softcap;

  int64_t group() const { return heads / kv_heads; }
  int64_t key_stride() const { return kv_heads * key_dim; }       // from token to token in the pool
  int64_t value_step() const { return kv_heads * value_stride; }
  int64_t token(int64_t row) const { return tokens ? tokens[row] : row; }
  int64_t room() const { return group() * (value_dim + 16 + 2); }  // numbers that a task keeps
};

// What one key head of a row keeps: sums of values, 16 logits, the largest logit and the sum of weights, for each of its
// query heads.
struct Running {
  float *values, *logits, *top, *sum;
  Running(const Paged& p, float* scratch)
      : values(scratch), logits(values + p.group() * p.value_dim), top(logits + p.group() * 16), sum(top + p.group()) {}

  void begin(const Paged& p, int64_t kv) {
    std::fill(values, values + p.group() * p.value_dim, 0.0f);
    for (int64_t g = 0; g < p.group(); ++g) {
      top[g] = p.sinks ? p.sinks[kv * p.group() + g] : -std::numeric_limits<float>::infinity();
      sum[g] = p.sinks ? 1.0f : 0.0f;
    }
  }
};

// A chunk: 16 tokens of a page, of which [from, to) are seen; `ahead` is how far its first token lies behind the query.
struct Seen {
  int64_t from, to, ahead;
};

// How chunks are weighed and added, in plain C++: any dimension, any processor.
template <typename T>
struct PlainChunk {
  // Logits of one head → weights e^(logit - top), the largest logit so far and the sum; returns what the sums before
  // must be multiplied by.
  static float weigh(const Paged& p, int64_t head, const T* query, const T* keys, const Seen& seen, float* logits,
                     float& top, float& sum) {
    const float before = top;
    for (int64_t t = seen.from; t < seen.to; ++t) {
      float l = 0.0f;
      for (int64_t d = 0; d < p.key_dim; ++d) l += widen(query[d]) * widen(keys[t * p.key_stride() + d]);
      l *= p.scale;
      if (p.softcap > 0) l = p.softcap * std::tanh(l / p.softcap);
      if (p.slopes) l -= p.slopes[head] * static_cast<float>(seen.ahead - t);
      logits[t] = l;
      top = l > top || l != l ? l : top;  // what is no number stays so
    }
    const float shrink = before == top ? 1.0f : std::exp(before - top);
    sum *= shrink;
    for (int64_t t = seen.from; t < seen.to; ++t) sum += logits[t] = std::exp(logits[t] - top);
    return shrink;
  }

  static void add(const Paged& p, const T* values, const Seen& seen, const float* shrink, Running& run) {
    for (int64_t g = 0; g < p.group(); ++g) {
      float* sums = run.values + g * p.value_dim;
      for (int64_t v = 0; v < p.value_dim; ++v) sums[v] *= shrink[g];
      for (int64_t t = seen.from; t < seen.to; ++t)
        for (int64_t v = 0; v < p.value_dim; ++v) sums[v] += run.logits[g * 16 + t] * widen(values[t * p.value_step() + v]);
    }
  }
};

#ifdef DYNO_VECTORS
// Dot products of a query with the keys of 16 tokens.
template <typename T>
inline Vec dots(const T* query, const T* keys, int64_t stride, int64_t dim) {
  using P = Products<T>;
  Vec sums[16];
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) sums[t] = zero();
  int64_t d = 0;
  for (; d + P::width <= dim; d += P::width) {
    const auto q = P::take(query + d);
#pragma GCC unroll 16
    for (int t = 0; t < 16; ++t) sums[t] = P::add(sums[t], q, P::take(keys + t * stride + d));
  }
  for (; d < dim; d += 16) {
    const Vec q = load(query + d);
#pragma GCC unroll 16
    for (int t = 0; t < 16; ++t) sums[t] = fma(q, load(keys + t * stride + d), sums[t]);
  }
  return sums_of(sums);
}

// The same with vectors: dimensions and pages are multiples of 16.
template <typename T>
struct WideChunk {
  static float weigh(const Paged& p, int64_t head, const T* query, const T* keys, const Seen& seen, float* logits,
                     float& top, float& sum) {
    const Mask real = lanes((0xffffu >> (16 - seen.to)) & (0xffffu << seen.from));
    Vec l = dots(query, keys, p.key_stride(), p.key_dim) * all(p.scale);
    if (p.softcap > 0) {
      const Vec cap = all(p.softcap);
      l = cap * tangent(l / cap);
    }
    if (p.slopes) {
      const Vec distance = all(static_cast<float>(seen.ahead)) - places();
      l = fnma(all(p.slopes[head]), distance, l);
    }
    const float before = top;
    top = std::max(before, largest_of(pick(real, l, all(-std::numeric_limits<float>::infinity()))));
    const float shrink = before == top ? 1.0f : std::exp(before - top);
    const Vec weights = keep(real, exponential(l - all(top)));
    store(logits, weights);
    sum = sum * shrink + sum_of(weights);  // what is no number is none here either
    return shrink;
  }

  // G heads from `head` on, V vectors of the value from `at` on.
  template <int G, int V>
  static inline void slice(const Paged& p, const T* values, const Seen& seen, const float* shrink, Running& run,
                           int64_t head, int64_t at) {
    Vec sums[G][V];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sums[g][v] = load(run.values + (head + g) * p.value_dim + at + 16 * v) * all(shrink[head + g]);
    for (int64_t t = seen.from; t < seen.to; ++t) {
      Vec value[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) value[v] = load(values + t * p.value_step() + at + 16 * v);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const Vec weight = all(run.logits[(head + g) * 16 + t]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[g][v] = fma(weight, value[v], sums[g][v]);
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(run.values + (head + g) * p.value_dim + at + 16 * v, sums[g][v]);
  }

  template <int V>
  static inline void heads(const Paged& p, const T* values, const Seen& seen, const float* shrink, Running& run, int64_t at) {
    int64_t g = 0;
    for (; g + 4 <= p.group(); g += 4) slice<4, V>(p, values, seen, shrink, run, g, at);
    if (p.group() - g == 3) slice<3, V>(p, values, seen, shrink, run, g, at);
    if (p.group() - g == 2) slice<2, V>(p, values, seen, shrink, run, g, at);
    if (p.group() - g == 1) slice<1, V>(p, values, seen, shrink, run, g, at);
  }

  static void add(const Paged& p, const T* values, const Seen& seen, const float* shrink, Running& run) {
    int64_t at = 0;
    for (; at + 64 <= p.value_dim; at += 64) heads<4>(p, values, seen, shrink, run, at);
    for (; at < p.value_dim; at += 16) heads<1>(p, values, seen, shrink, run, at);
  }
};
#endif

// Ask for one part of the next page while this one is worked on: pages lie anywhere, so the processor cannot guess it.
template <typename T>
inline void fetch(const T* page, int64_t numbers, int64_t part, int64_t parts) {
  const int64_t line = 64 / int64_t(sizeof(T)), lines = (numbers + line - 1) / line;
  for (int64_t i = lines * part / parts; i < lines * (part + 1) / parts; ++i) __builtin_prefetch(page + i * line, 0, 2);
}

// One row's key heads [from, to), page by page: what the heads have in a page lies side by side.
template <typename T, typename Chunk>
void attend(const Paged& p, int64_t row, int64_t from, int64_t to, const T* query, const T* keys, const T* values, T* out,
            float* scratch) {
  const int64_t G = p.group(), P = p.page_size, first = p.firsts[row], last = p.lasts[row];
  float* shrink = scratch + (to - from) * p.room();
  for (int64_t kv = from; kv < to; ++kv) Running(p, scratch + (kv - from) * p.room()).begin(p, kv);
  for (int64_t page = first / P * P; page <= last; page += P) {
    const int64_t* entry = p.pages + row * p.table_width + (page - p.table_starts[row]) / P;
    const int64_t token = entry[0] * P;
    const int64_t ahead = std::clamp(last + 1 - page - P, int64_t(0), P), next = ahead ? entry[1] * P : 0;
    for (int64_t c = 0; c < P && page + c <= last; c += 16) {
      const int64_t at = page + c;
      const Seen seen{std::max(first - at, int64_t(0)), std::min({last + 1 - at, P - c, int64_t(16)}), last - at};
      if (seen.from >= seen.to) continue;
      for (int64_t kv = from; kv < to; ++kv) {
        if (c == 0) {  // in as many parts as there are heads: all at once would wait for each other
          const int64_t share = kv - from, parts = to - from;
          fetch(keys + next * p.key_stride(), p.key_stride() * ahead, share, parts);
          if (values != keys) fetch(values + next * p.value_step(), p.value_step() * ahead, share, parts);
        }
        Running run(p, scratch + (kv - from) * p.room());
        const T* chunk_keys = keys + (token + c) * p.key_stride() + kv * p.key_dim;
        const T* own = query + p.token(row) * p.query_stride + kv * G * p.key_dim;
        for (int64_t g = 0; g < G; ++g)
          shrink[g] = Chunk::weigh(p, kv * G + g, own + g * p.key_dim, chunk_keys, seen, run.logits + g * 16, run.top[g], run.sum[g]);
        Chunk::add(p, values + (token + c) * p.value_step() + kv * p.value_stride, seen, shrink, run);
      }
    }
  }
  for (int64_t kv = from; kv < to; ++kv) {
    const Running run(p, scratch + (kv - from) * p.room());
    T* mine = out + (p.token(row) * p.heads + kv * G) * p.value_dim;
    for (int64_t g = 0; g < G; ++g)
      for (int64_t v = 0; v < p.value_dim; ++v) narrow(run.values[g * p.value_dim + v] / run.sum[g], mine + g * p.value_dim + v);
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
    const int64_t key_row = p.kv_heads * p.key_dim, value_row = p.kv_heads * p.value_dim;
    std::copy_n(key + i * key_stride, key_row, keys + slots[i] * key_row);
    if (value) std::copy_n(value + i * value_stride, value_row, values + slots[i] * value_row);
  }
};

}  // namespace dyno
