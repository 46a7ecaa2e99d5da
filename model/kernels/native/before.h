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

// The same for what need not be normalised.
template <typename X, typename Put>
inline void normalise(const Norm* norm, const X* x, int64_t width, int64_t from, int64_t to, Put put) {
  if (norm) return normalise(*norm, x, width, from, to, put);
  for (int64_t i = from; i < to; i += 16) put(i, load(x + i));
}

template <typename X>
inline void normalise_in_place(const Norm& norm, X* x, int64_t width) {
  normalise(norm, x, width, 0, width, [x](int64_t at, Vec y) { store(x + at, y); });
}

// Rows of x (rows, width) as a linear layer reads them, normalised where there is a norm. All threads of a team come.
template <typename X, typename Read>
void write_normed(const Norm* norm, const X* x, const Operand<Read>& rows, const Member& me) {
  const int64_t width = rows.depth;
  write_rows(rows, me, [&](int64_t row, int64_t from, int64_t to) {
    const auto pen = rows.pen(row);
    normalise(norm, x + row * width, width, from, to, [&](int64_t at, Vec y) { pen.put(at, y); });
  });
}

// A norm of every head, with weights that lie `apart` (0: all have the same), or of all heads as a whole.
struct HeadNorm {
  Norm norm;
  int64_t apart, whole;

  // Of heads [from, to) of a row's `count`, which lie behind each other.
  template <typename X>
  void apply(X* heads, int64_t dim, int64_t from, int64_t to, int64_t count) const {
    if (whole) return normalise_in_place(norm, heads, count * dim);
    for (int64_t head = from; head < to; ++head) {
      Norm own = norm;
      if (own.weight) own.weight += head * apart;
      if (own.bias) own.bias += head * apart;
      normalise_in_place(own, heads + head * dim, dim);
    }
  }
};

// How queries grow with their position (model/config.py: Temperature).
struct Growth {
  float weight, floor, offset;  // weight 0: they do not

  template <typename X>
  void apply(int64_t position, X* x, int64_t count) const {
    const Vec scale = all(1.0f + weight * std::log1p(std::floor((float(position) + offset) / floor)));
    for (int64_t i = 0; i < count; i += 16) store(x + i, load(x + i) * scale);
  }
};

// Which numbers of a head rotate: the first `turned`, 0 for none.
struct Rotation {
  int64_t turned, interleaved;  // pairs are neighbours, else a half apart
};

// Where the tokens of a step stand: positions, and the cosines and sines (rows, turned / 2) of a rotary table.
template <typename X>
struct Standing {
  const int64_t* positions;
  const X *cos, *sin;
};

// A gate on what comes out of attention, made of what the branch sees.
struct OutputGate {
  Weight weight;
  int64_t shared;  // by so many numbers: all of a head, or 1

  // What columns [at, at + 16) are multiplied by; gates: of the row.
  template <typename X>
  Vec open(const X* gates, int64_t at) const {
    return logistic(shared == 1 ? load(gates + at) : all(widen(gates[at / shared])));
  }
};

struct Attention {
  const Norm* before;      // null: none
  const OutputGate* gate;  // null: none
  Weight qkv;
  const HeadNorm *query_norm, *key_norm, *value_norm;  // null: none
  int64_t heads, kv_heads, dim;
  Rotation rotation;
  int64_t normed_last;   // after the rotation
  int64_t shared_value;  // keys as they leave the projection are values too
  Growth growth;
  float clip;  // numbers beyond are cut; 0: none

  int64_t placed() const { return (heads + 2 * kv_heads) * dim; }  // numbers of a row
  // Whether a row's heads have to be done together.
  bool is_whole() const {
    return clip || shared_value || value_norm || (query_norm && query_norm->whole) || (key_norm && key_norm->whole);
  }
  bool is_projected_only() const { return !is_whole() && !query_norm && !key_norm && !rotation.turned && !growth.weight; }
};

// Rotate one head of a row in place.
template <typename X>
inline void rotate(const Rotation& r, const Standing<X>& at, int64_t row, X* head) {
  const int64_t half = r.turned / 2, step = r.interleaved ? 2 : 1, other = r.interleaved ? 1 : half;
  const X *cos = at.cos + row * half, *sin = at.sin + row * half;
  int64_t i = 0;
  for (; !r.interleaved && i + 16 <= half; i += 16) {
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

// Heads [from, to) of one row's queries and then keys, as they leave the projection: normed, rotated and grown in place.
template <typename X>
void settle(const Attention& a, const Standing<X>& at, int64_t row, int64_t from, int64_t to, X* out) {
  if (a.clip)
    for (int64_t i = 0; i < a.qkv.columns; i += 16) store(out + i, largest(all(-a.clip), least(all(a.clip), load(out + i))));
  const int64_t queries = std::min(to, a.heads), keys = std::max(from, a.heads);
  X *keys_out = out + a.heads * a.dim, *values = keys_out + a.kv_heads * a.dim;
  if (a.shared_value) std::copy_n(keys_out, a.kv_heads * a.dim, values);
  if (a.value_norm) a.value_norm->apply(values, a.dim, 0, a.kv_heads, a.kv_heads);
  const auto normalise_heads = [&] {
    if (a.query_norm && from < queries) a.query_norm->apply(out, a.dim, from, queries, a.heads);
    if (a.key_norm && keys < to) a.key_norm->apply(keys_out, a.dim, keys - a.heads, to - a.heads, a.kv_heads);
  };
  if (!a.normed_last) normalise_heads();
  for (int64_t head = from; a.rotation.turned && head < to; ++head) rotate(a.rotation, at, row, out + head * a.dim);
  if (a.normed_last) normalise_heads();
  if (a.growth.weight && from < queries) a.growth.apply(at.positions[row], out + from * a.dim, (queries - from) * a.dim);
}

// x (rows, width) → out (rows, (heads + 2 kv_heads) dim): queries, keys and values, placed; and the gates of rows, if any.
template <typename X>
void enter(const Attention& a, int64_t rows, const X* x, const Standing<X>& at, X* out, X* gates, int threads) {
  const auto normed = Operand<X>::in_room(0, a.qkv.depth, rows, a.qkv.rounds);
  std::atomic<int64_t> turns[2] = {};
  together(threads, [&](const Member& me) {
    write_normed(a.before, x, normed, me);
    if (a.gate) share(a.gate->weight, normed, turns[0], me, Place<X>{gates, a.gate->weight.columns});
    share(a.qkv, normed, turns[1], me, Place<X>{out, a.qkv.columns, a.placed()});
    if (a.is_projected_only()) return;
    me.meet();
    const int64_t placed = a.heads + a.kv_heads, size = a.is_whole() ? placed : 1, parts = placed / size;
    me.part(rows * parts, [&](int64_t task) {
      const int64_t row = task / parts, from = task % parts * size;
      settle(a, at, row, from, from + size, out + row * a.placed());
    });
  });
}

}  // namespace dyno
