// What surrounds attention in a block, each half in one parallel region: norm, projections, rotation before it; projection,
// residual, norm and feed-forward after it.
#pragma once

#include <cmath>

#include "linear.h"

namespace dyno {

struct Norm {
  const float* weight;  // null: none
  const float* bias;
  float eps;
  int32_t centred;  // layer norm, else RMS norm
};

// One row, `width` a multiple of 16, normalised; put(at, 16 numbers) takes the result of columns [from, to).
template <typename X, typename Put>
inline void normalise(const Norm& norm, const X* x, int64_t width, int64_t from, int64_t to, Put put) {
  Vec total = zero(), squares = total;
  if (norm.centred) {
    for (int64_t i = 0; i < width; i += 16) total = total + load(x + i);
  }
  const Vec mean = all(norm.centred ? sum_of(total) / width : 0.0f);
  for (int64_t i = 0; i < width; i += 16) {
    const Vec d = load(x + i) - mean;
    squares = fma(d, d, squares);
  }
  const Vec scale = all(1.0f / std::sqrt(sum_of(squares) / width + norm.eps));
  for (int64_t i = from; i < to; i += 16) {
    Vec y = (load(x + i) - mean) * scale;
    if (norm.weight) y = y * load(norm.weight + i);
    if (norm.bias) y = y + load(norm.bias + i);
    put(i, y);
  }
}

struct Attention {
  Norm before;
  Weight qkv;
  const Norm* query_norm;  // over each head, before the rotation; null: none
  const Norm* key_norm;
  int64_t heads, kv_heads, dim, turned;  // `turned`: dimensions that rotate, 0 where none does
  int64_t interleaved;                   // pairs are neighbours, else a half apart
};

struct FeedForward {
  Norm before;
  Weight up, down;
  int64_t activation, gated, hidden;  // gated: panels of `up` hold 16 gates and then their 16 values
};

// Rotate one head in place by cos and sin (turned / 2 each).
template <typename X>
inline void rotate(X* head, const X* cos, const X* sin, int64_t turned, bool interleaved) {
  const int64_t half = turned / 2, step = interleaved ? 2 : 1, other = interleaved ? 1 : half;
  int64_t i = 0;
  for (; !interleaved && i + 16 <= half; i += 16) {
    const Vec x = load(head + i), y = load(head + half + i), c = load(cos + i), s = load(sin + i);
    store(head + i, fms(x, c, y * s));
    store(head + half + i, fma(y, c, x * s));
  }
  for (; i < half; ++i) {
    X *first = head + i * step, *second = first + other;
    const float x = widen(*first), y = widen(*second), c = widen(cos[i]), s = widen(sin[i]);
    narrow(x * c - y * s, first);
    narrow(y * c + x * s, second);
  }
}

// x (rows, width) → out (rows, (heads + 2 kv_heads) dim): queries, keys and values, placed.
template <typename X>
void enter(const Attention& a, int64_t rows, const X* x, const X* cos, const X* sin, X* out, int threads) {
  const int64_t width = a.qkv.depth, placed = a.heads + a.kv_heads;
  const auto normed = Operand<X>::in_room(0, width, rows, a.qkv.rounds);
  std::atomic<int64_t> turn{0};
  together(threads, [&](const Member& me) {
    write_rows(normed, me, [&](int64_t row, int64_t from, int64_t to) {
      const auto pen = normed.pen(row);
      normalise(a.before, x + row * width, width, from, to, [&](int64_t at, Vec y) { pen.put(at, y); });
    });
    share(a.qkv, normed, turn, me, Place<X>{out, a.qkv.columns});
    if (!a.turned && !a.query_norm) return;
    me.meet();
    me.part(rows * placed, [&](int64_t task) {
      const int64_t row = task / placed, h = task % placed;
      X* head = out + row * a.qkv.columns + h * a.dim;
      if (const Norm* norm = h < a.heads ? a.query_norm : a.key_norm)
        normalise(*norm, head, a.dim, 0, a.dim, [&](int64_t at, Vec y) { store(head + at, y); });
      if (a.turned) rotate(head, cos + row * a.turned / 2, sin + row * a.turned / 2, a.turned, a.interleaved != 0);
    });
  });
}

template <typename X>
struct Gate {  // activate(gate) * value, 16 numbers a panel
  const Operand<X>& hidden;
  int64_t activation;
  inline void operator()(int64_t row, int64_t panel, Vec gate, Vec value) const {
    hidden.pen(row).put(panel * 16, activate(activation, gate) * value);
  }
};

template <typename X>
struct Activate {
  const Operand<X>& hidden;
  int64_t activation;
  inline void operator()(int64_t row, int64_t panel, Vec a, Vec b) const {
    const auto pen = hidden.pen(row);
    const int64_t at = panel * PANEL;
    pen.put(at, activate(activation, a));
    if (at + 16 < hidden.depth) pen.put(at + 16, activate(activation, b));
  }
};

template <typename X>
struct Residual {  // out = x + result
  const X* x;
  X* out;
  int64_t columns;
  inline void operator()(int64_t row, int64_t panel, Vec a, Vec b) const {
    const int64_t at = row * columns + panel * PANEL;
    store(out + at, load(x + at) + a);
    if (panel * PANEL + 16 < columns) store(out + at + 16, load(x + at + 16) + b);
  }
};

// Copies columns [from, to) of a row into the layout of a linear layer's operand.
template <typename X, typename Pen>
inline void take(const X* x, int64_t from, int64_t to, const Pen& pen) {
  for (int64_t i = from; i < to; i += 16) pen.put(i, load(x + i));
}

// attended (rows, heads * dim), x (rows, width) → out = x + projection, then + feed-forward of its norm. Without a
// feed-forward `normed` (rows, width) gets the norm of out instead.
template <typename X>
void leave(const Weight& projection, const FeedForward* ff, const Norm* norm, int64_t rows, const X* x,
           const X* attended, X* out, X* normed, int threads) {
  const int64_t inner = projection.depth, width = projection.columns;
  const auto taken = Operand<X>::in_room(0, inner, rows, projection.rounds);
  const auto seen = Operand<X>::in_room(1, width, rows, ff && ff->up.rounds);
  const auto hidden = Operand<X>::in_room(2, ff ? ff->hidden : 0, rows, ff && ff->down.rounds);
  std::atomic<int64_t> turns[3] = {};
  together(threads, [&](const Member& me) {
    write_rows(taken, me, [&](int64_t row, int64_t from, int64_t to) { take(attended + row * inner, from, to, taken.pen(row)); });
    share(projection, taken, turns[0], me, Residual<X>{x, out, width});
    me.meet();
    if (!ff) {
      me.part(rows, [&](int64_t row) {
        normalise(*norm, out + row * width, width, 0, width, [&](int64_t at, Vec y) { store(normed + row * width + at, y); });
      });
    } else {
      write_rows(seen, me, [&](int64_t row, int64_t from, int64_t to) {
        const auto pen = seen.pen(row);
        normalise(ff->before, out + row * width, width, from, to, [&](int64_t at, Vec y) { pen.put(at, y); });
      });
      if (ff->gated)
        share(ff->up, seen, turns[1], me, Gate<X>{hidden, ff->activation});
      else
        share(ff->up, seen, turns[1], me, Activate<X>{hidden, ff->activation});
      me.meet();
      share(ff->down, hidden, turns[2], me, Residual<X>{out, out, width});
    }
  });
}

}  // namespace dyno
