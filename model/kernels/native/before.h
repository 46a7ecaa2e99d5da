// What comes before attention in a block, in one parallel region: norm, projections, rotation.
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

}  // namespace dyno
