// Attention of many queries of one sequence over a paged cache. Blocks of keys and values are laid out as panels and read
// by all queries of a task, so both products are those of linear.h.
//
// Blocks lie at fixed positions of the sequence and each query adds them up in their order: its result depends neither on
// how the sequence was cut into steps nor on how a step was cut into tasks.
#pragma once

#include "linear.h"
#include "paged.h"

namespace dyno {

constexpr int64_t KEYS = 64, QUERIES = 48;  // keys of a block; queries that are weighed together

// Neighbouring tokens [start, stop) of a step that belong to one sequence.
struct Stretch {
  int64_t start, stop, position;  // of the first token
  int64_t table_start;            // position of the table's first entry
  const int64_t* table;
};

// Turn 16 rows of 16 words each: word c of row r → to[c * step + r].
inline void turn(const char* const* rows, int64_t at, uint32_t* to, int64_t step) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i] + at);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // a[i + j], in lane l: words 4 l + j of rows i .. i + 3
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88), odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i odd2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    _mm512_storeu_si512(to + j * step, _mm512_shuffle_i32x4(even, even2, 0x88));
    _mm512_storeu_si512(to + (4 + j) * step, _mm512_shuffle_i32x4(odd, odd2, 0x88));
    _mm512_storeu_si512(to + (8 + j) * step, _mm512_shuffle_i32x4(even, even2, 0xdd));
    _mm512_storeu_si512(to + (12 + j) * step, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
  }
}

// Rows of the pool as panels. Beyond `count` stand zeros: nobody has written there, or what is there is no number.
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
    for (int64_t d = 0; d < (dim + PANEL - 1) / PANEL * PANEL; d += 16) {
      X* panel = to + d / PANEL * KEYS * PANEL + d % PANEL * Cell<X, X>::depth;
      for (int64_t t = 0; t < KEYS; t += Cell<X, X>::depth, panel += PANEL * Cell<X, X>::depth) {
        if constexpr (sizeof(X) == 4) {
          _mm512_storeu_ps(panel, d < dim ? _mm512_loadu_ps((const float*)rows[t] + d) : _mm512_setzero_ps());
        } else {
          const auto wide = [&](int64_t row) {
            return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)((const X*)rows[row] + d)));
          };
          const __m512i pair = d < dim ? _mm512_or_si512(wide(t), _mm512_slli_epi32(wide(t + 1), 16)) : _mm512_setzero_si512();
          _mm512_storeu_si512(panel, pair);
        }
      }
    }
  }
};

// One key head of a stretch: tokens [from, to) of the step, `group` queries each.
template <typename X>
struct StretchTask {
  const Paged& p;
  const Stretch& s;
  const int64_t* firsts;  // of every token of the step: the first position it sees
  const X *query, *keys, *values;
  X* out;
  int64_t kv, from, to;

  int64_t group() const { return p.group(); }
  int64_t rows() const { return (to - from) * group(); }
  int64_t token(int64_t row) const { return from + row / group(); }
  int64_t position(int64_t row) const { return s.position + token(row) - s.start; }
  int64_t head(int64_t row) const { return kv * group() + row % group(); }

  void run() const {
    const int64_t D = p.key_dim, V = p.value_dim, count = rows(), panels_of_value = (V + PANEL - 1) / PANEL;
    const KeyBlock<X> block{room<X>(KEYS * D, 0), room<X>(KEYS * panels_of_value * PANEL, 1)};
    float* sums = room<float>(count * V, 2);
    float* tops = room<float>(count * 2, 3);
    X* asked = room<X>(count * D + QUERIES * D, 4);
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
      const __m512 sum = _mm512_set1_ps(tops[2 * row + 1]);
      for (int64_t v = 0; v < V; v += 16) store(mine + v, _mm512_div_ps(load(sums + row * V + v), sum));
    }
  }

  void begin(float* sums, float* tops, X* asked) const {
    const int64_t D = p.key_dim;
    std::fill(sums, sums + rows() * p.value_dim, 0.0f);
    for (int64_t row = 0; row < rows(); ++row) {
      tops[2 * row] = p.sinks ? p.sinks[head(row)] : -std::numeric_limits<float>::infinity();
      tops[2 * row + 1] = p.sinks ? 1.0f : 0.0f;
    }
    for (int64_t row = 0; row < rows(); row += QUERIES) {
      const int64_t together = std::min(QUERIES, rows() - row);
      const Operand<X> tile(asked + row * D, D, together);
      for (int64_t m = 0; m < together; ++m)
        take(query + token(row + m) * p.query_stride + head(row + m) * D, D, tile.pen(m));
    }
  }

  void lay_out(const KeyBlock<X>& block, int64_t at, int64_t last) const {
    alignas(64) static const char nothing[1 << 12] = {};
    const char *key_rows[KEYS], *value_rows[KEYS];
    for (int64_t t = 0; t < KEYS; ++t) {
      const int64_t place = at + t - s.table_start, page = place / p.page_size;
      const bool there = place >= 0 && at + t <= last;
      const int64_t entry = there ? s.table[page] * p.page_size + place % p.page_size : 0;
      key_rows[t] = there ? (const char*)(keys + entry * p.key_stride() + kv * p.key_dim) : nothing;
      value_rows[t] = there ? (const char*)(values + entry * p.value_step() + kv * p.value_stride) : nothing;
    }
    block.lay_keys(key_rows, p.key_dim, block.keys);
    block.lay_values(value_rows, p.value_dim, block.values);
  }

  // Rows [row, stop) look at the block at position `at`.
  void weigh(const KeyBlock<X>& block, int64_t at, int64_t row, int64_t stop, X* asked, float* sums, float* tops) const {
    const int64_t V = p.value_dim, count = stop - row;
    alignas(64) float logits[QUERIES * KEYS];
    float shrink[QUERIES];
    const __m512 scale = _mm512_set1_ps(p.scale);
    auto keep = [&](int64_t m, int64_t panel, __m512 a, __m512 b) {
      store(logits + m * KEYS + panel * PANEL, _mm512_mul_ps(a, scale));
      store(logits + m * KEYS + panel * PANEL + 16, _mm512_mul_ps(b, scale));
    };
    const int64_t seen = std::min(position(stop - 1) + 1 - at, KEYS);
    panels<X, X>(0, (seen + PANEL - 1) / PANEL, Operand<X>(asked, p.key_dim, count), block.keys, keep);
    const Operand<X> weights(room<X>(Operand<X>::size(QUERIES, KEYS), 5), KEYS, count);
    const bool plain = p.softcap <= 0 && !p.slopes, whole = position(row) >= at + KEYS - 1 && firsts[token(stop - 1)] <= at;
    for (int64_t m = 0; m < count; ++m) {
      float* top = tops + 2 * (row + m);
      shrink[m] = plain && whole ? soften_whole(logits + m * KEYS, top, weights.pen(m))
                                 : soften(row + m, at, logits + m * KEYS, top, weights.pen(m));
    }
    auto add = [&](int64_t m, int64_t panel, __m512 a, __m512 b) {
      float* mine = sums + (row + m) * V + panel * PANEL;
      const __m512 before = _mm512_set1_ps(shrink[m]);
      store(mine, _mm512_fmadd_ps(load(mine), before, a));
      if (panel * PANEL + 16 < V) store(mine + 16, _mm512_fmadd_ps(load(mine + 16), before, b));
    };
    panels<X, X>(0, (V + PANEL - 1) / PANEL, weights, block.values, add);
  }

  // The same of a row that sees the whole block, and whose logits are as they are.
  template <typename Pen>
  float soften_whole(const float* logits, float* top, const Pen& pen) const {
    __m512 l[KEYS / 16];
    for (int64_t j = 0; j < KEYS / 16; ++j) l[j] = load(logits + 16 * j);
    const __m512 best = _mm512_max_ps(_mm512_max_ps(l[0], l[1]), _mm512_max_ps(l[2], l[3]));
    const float before = top[0], now = std::max(before, _mm512_reduce_max_ps(best));
    const float shrink = before == now ? 1.0f : std::exp(before - now);
    __m512 total = _mm512_setzero_ps();
    for (int64_t j = 0; j < KEYS / 16; ++j) {
      const __m512 w = exponential(_mm512_sub_ps(l[j], _mm512_set1_ps(now)));
      total = _mm512_add_ps(total, w);
      pen.put(16 * j, w);
    }
    top[0] = now;
    top[1] = top[1] * shrink + _mm512_reduce_add_ps(total);
    return shrink;
  }

  // Logits of one row → weights e^(logit - top), the largest logit so far and the sum; returns what the sums before must
  // be multiplied by.
  template <typename Pen>
  float soften(int64_t row, int64_t at, const float* logits, float* top, const Pen& pen) const {
    const int64_t from = std::max(firsts[token(row)] - at, int64_t(0)), own = position(row) - at;
    const int64_t to = std::min(own + 1, KEYS);
    __m512 l[KEYS / 16], best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __mmask16 real[KEYS / 16];
    const __m512 places = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t j = 0; j < KEYS / 16; ++j) {
      const auto below = [&](int64_t n) { return (1u << std::clamp(n - 16 * j, int64_t(0), int64_t(16))) - 1; };
      real[j] = static_cast<__mmask16>(below(to) & ~below(from));
      l[j] = _mm512_maskz_mov_ps(real[j], load(logits + 16 * j));
      if (p.softcap > 0) {
        const __m512 cap = _mm512_set1_ps(p.softcap);
        l[j] = _mm512_mul_ps(cap, tangent(_mm512_div_ps(l[j], cap)));
      }
      if (p.slopes) {
        const __m512 distance = _mm512_sub_ps(_mm512_set1_ps(static_cast<float>(own - 16 * j)), places);
        l[j] = _mm512_fnmadd_ps(_mm512_set1_ps(p.slopes[head(row)]), distance, l[j]);
      }
      best = _mm512_mask_max_ps(best, real[j], best, l[j]);
    }
    const float before = top[0], now = std::max(before, _mm512_reduce_max_ps(best));
    const bool nothing = to <= from;
    const float shrink = nothing || before == now ? 1.0f : std::exp(before - now);
    __m512 total = _mm512_setzero_ps();
    for (int64_t j = 0; j < KEYS / 16; ++j) {
      const __m512 w = _mm512_maskz_mov_ps(real[j], exponential(_mm512_sub_ps(l[j], _mm512_set1_ps(now))));
      total = _mm512_add_ps(total, w);
      pen.put(16 * j, w);
    }
    if (!nothing) {
      top[0] = now;
      top[1] = top[1] * shrink + _mm512_reduce_add_ps(total);
    }
    return shrink;
  }
};

// How many tokens of a stretch make a task: sums of its queries stay near the processor, and all threads have work.
inline int64_t task_tokens(const Paged& p, int64_t tokens, int threads) {
  const int64_t near = (int64_t(1) << 16) / (p.group() * p.value_dim), fair = tokens * p.kv_heads / (4 * threads);
  return std::max(std::min(near, fair), std::min(near, QUERIES / p.group() + 1));
}

}  // namespace dyno
