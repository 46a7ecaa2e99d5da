// Attention of many queries of one sequence over a paged cache. Blocks of keys and values are laid out as panels and read
// by all queries of a task, so both products are those of linear.h.
//
// Blocks lie at fixed positions of the sequence and each query adds them up in their order: its result depends neither on
// how the sequence was cut into steps nor on how a step was cut into tasks.
#pragma once

#include "linear.h"
#include "paged.h"

namespace dyno {

constexpr int64_t QUERIES = 48;  // that are weighed together

// Neighbouring tokens [start, stop) of a step that belong to one sequence.
struct Stretch {
  int64_t start, stop, position;  // of the first token
  int64_t table_start;            // position of the table's first entry
  const int64_t* table;
};

// Rows of the pool as panels.
template <typename X>
struct KeyBlock {
  X *keys, *values;

  // rows: where the keys of KEYS tokens are; columns of a panel are tokens.
  static void lay_keys(const char* const* rows, int64_t dim, X* to) {
    const int64_t words = dim * int64_t(sizeof(X)) / 4;
    for (int64_t half = 0; half < KEYS / 16; ++half) {
      uint32_t* panel = (uint32_t*)(to + half / 2 * dim * PANEL) + half % 2 * 16;
      int64_t w = 0;
      for (; w + 16 <= words; w += 16) turn(rows + half * 16, w * 4, panel + w * PANEL, PANEL);
      for (; w < words; ++w)
        for (int64_t t = 0; t < 16; ++t) std::memcpy(panel + w * PANEL + t, rows[half * 16 + t] + w * 4, 4);
    }
  }

  // columns of a panel are dimensions, steps are tokens.
  static void lay_values(const char* const* rows, int64_t dim, X* to) {
    constexpr int64_t depth = Cell<X, X>::depth;
    for (int64_t d = 0; d < (dim + PANEL - 1) / PANEL * PANEL; d += 16) {
      X* panel = to + d / PANEL * KEYS * PANEL + d % PANEL * depth;
      const auto row = [&](int64_t t) { return (const X*)rows[t] + d; };
      for (int64_t t = 0; t < KEYS; t += depth, panel += PANEL * depth) {
        if (d >= dim)
          std::memset(panel, 0, 16 * depth * sizeof(X));
        else if constexpr (depth == 1)
          store(panel, load(row(t)));
        else
          interleave(row(t), row(t + 1), panel);
      }
    }
  }
};

// One key head of a stretch: tokens [from, to) of the step, `group` queries each.
template <typename X>
struct StretchTask {
  using Number = typename Operand<X>::Number;

  const Paged& p;
  const Stretch& s;
  const int64_t* firsts;  // of every token of the step: the first position it sees
  const X *query, *keys, *values;
  X* out;
  int64_t kv, from, to;
  const uint64_t* chosen;  // of each block, what each token of the stretch attends to, `words` apart; null: all
  int64_t words;

  int64_t group() const { return p.group(); }
  int64_t rows() const { return (to - from) * group(); }
  int64_t token(int64_t row) const { return from + row / group(); }
  int64_t position(int64_t row) const { return s.position + token(row) - s.start; }
  int64_t head(int64_t row) const { return kv * group() + row % group(); }

  void run() const {
    const int64_t D = p.key_dim, V = p.value_dim, count = rows(), panels_of_value = (V + PANEL - 1) / PANEL;
    const KeyBlock<X> block{room<X>(KEYS * D, 0), room<X>(KEYS * panels_of_value * PANEL, 1)};
    [[maybe_unused]] const TilesInUse in_use(tiled<X>(count, D));
    float* sums = room<float>(count * V, 2);
    float* tops = room<float>(count * 17, 3);  // the largest logits; the sums of weights, in parts
    Number* asked = room<Number>(count * D + QUERIES * D, 4);
    begin(sums, tops, asked);
    const int64_t last = position(count - 1);
    for (int64_t at = firsts[from] / KEYS * KEYS; at <= last; at += KEYS) {
      lay_out(block, at, last);
      for (int64_t row = 0; row < count; row += QUERIES) {
        const int64_t stop = std::min(row + QUERIES, count);
        if (position(stop - 1) < at || firsts[token(row)] >= at + KEYS) continue;
        weigh(block, at, row, stop, asked + row * D, sums, tops);
      }
    }
    for (int64_t row = 0; row < count; ++row) {
      X* mine = out + (token(row) * p.heads + head(row)) * V;
      const Vec sum = all(sum_of(load(parts(tops, row))));
      for (int64_t v = 0; v < V; v += 16) store(mine + v, load(sums + row * V + v) / sum);
    }
  }

  float* parts(float* tops, int64_t row) const { return tops + rows() + 16 * row; }

  void begin(float* sums, float* tops, Number* asked) const {
    const int64_t D = p.key_dim;
    std::fill(sums, sums + rows() * p.value_dim, 0.0f);
    for (int64_t row = 0; row < rows(); ++row) {
      tops[row] = p.sinks ? p.sinks[head(row)] : -std::numeric_limits<float>::infinity();
      store(parts(tops, row), zero());
      parts(tops, row)[0] = p.sinks ? 1.0f : 0.0f;
    }
    for (int64_t row = 0; row < rows(); row += QUERIES) {
      const int64_t together = std::min(QUERIES, rows() - row);
      const Operand<X> tile(asked + row * D, D, together);
      for (int64_t m = 0; m < together; ++m)
        take(query + token(row + m) * p.query_stride + head(row + m) * D, 0, D, tile.pen(m));
    }
  }

  // The tokens from position `at` on. Beyond `last` stand zeros: nobody has written there, or what is there is no number.
  void lay_out(const KeyBlock<X>& block, int64_t at, int64_t last) const {
    alignas(64) static const char nothing[1 << 12] = {};
    const char *key_rows[KEYS], *value_rows[KEYS];
    for (int64_t t = 0; t < KEYS; ++t) {
      const int64_t place = at + t - s.table_start, page = place / p.page_size;
      const bool there = place >= 0 && at + t <= last;
      const int64_t entry = there ? s.table[page] * p.page_size + place % p.page_size : 0;
      key_rows[t] = there ? (const char*)(keys + entry * p.key_step() + kv * p.key_stride) : nothing;
      value_rows[t] = there ? (const char*)(values + entry * p.value_step() + kv * p.value_stride) : nothing;
    }
    block.lay_keys(key_rows, p.key_dim, block.keys);
    block.lay_values(value_rows, p.value_dim, block.values);
  }

  // Rows [row, stop) look at the block at position `at`.
  void weigh(const KeyBlock<X>& block, int64_t at, int64_t row, int64_t stop, Number* asked, float* sums, float* tops) const {
    const int64_t V = p.value_dim, count = stop - row;
    alignas(64) float logits[QUERIES * KEYS];
    float shrink[QUERIES];
    const int64_t seen = std::min(position(stop - 1) + 1 - at, KEYS);
    products((seen + PANEL - 1) / PANEL, Operand<X>(asked, p.key_dim, count), block.keys, logits, KEYS);
    const Operand<X> weights(room<Number>(Operand<X>::size(QUERIES, KEYS, false) + Operand<X>::BEHIND, 5), KEYS, count);
    alignas(64) Number soft[MOST * KEYS];
    for (int64_t b = 0; b < weights.blocks.count; ++b) {
      Number* to = soft;
      for (int64_t m = weights.blocks.start(b); m < weights.blocks.start(b) + weights.blocks.size(b); ++m, to += KEYS) {
        const int64_t own = position(row + m) - at;
        const uint64_t taken = chosen ? chosen[(token(row + m) - s.start) * words + at / KEYS] : ALL;
        const Seen keys_seen{std::max(firsts[token(row + m)] - at, int64_t(0)), std::min(own + 1, KEYS), own, taken};
        Vec sum = load(parts(tops, row + m));
        shrink[m] = soften(p, head(row + m), keys_seen, logits + m * KEYS, tops[row + m], sum, [=](int64_t i, Vec w) { store(to + i, w); });
        store(parts(tops, row + m), sum);
      }
      weights.fill(b, soft);
    }
    auto add = [&](int64_t m, int64_t panel, Vec a, Vec b) {
      float* mine = sums + (row + m) * V + panel * PANEL;
      const Vec before = all(shrink[m]);
      store(mine, fma(load(mine), before, a));
      if (panel * PANEL + 16 < V) store(mine + 16, fma(load(mine + 16), before, b));
    };
    whole_panels(0, (V + PANEL - 1) / PANEL, weights, block.values, add);
  }
};

// How many tokens of a stretch make a task, one at least: sums of its queries stay near the processor, and all threads have work.
inline int64_t task_tokens(const Paged& p, int64_t tokens, int threads) {
  constexpr int64_t NEAR = 1 << 16;
  const int64_t near = std::max<int64_t>(NEAR / (p.group() * p.value_dim), 1), fair = tokens * p.kv_heads / (4 * threads);
  return std::max(std::min(near, fair), std::min(near, QUERIES / p.group() + 1));
}

}  // namespace dyno
