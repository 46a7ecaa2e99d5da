// What comes before the blocks and after them: angles, the last norm with the head, and a look at the logits.
#pragma once

#include <cmath>
#include <limits>

#include "before.h"

namespace dyno {

struct Angles {  // a rotary table (model/position.py)
  const float* frequencies;
  int64_t count;
  float magnitude;
};

// Cosines and sines of the table at each position (rows, count).
template <typename X>
void turn(const Angles& a, int64_t rows, const int64_t* positions, X* cos, X* sin, int threads) {
  const auto one = [&](int64_t row) {
    for (int64_t i = 0; i < a.count; ++i) {
      const float angle = float(positions[row]) * a.frequencies[i];
      narrow(std::cos(angle) * a.magnitude, cos + row * a.count + i);
      narrow(std::sin(angle) * a.magnitude, sin + row * a.count + i);
    }
  };
  together(rows > 16 ? threads : 1, [&](const Member& me) { me.part(rows, one); });
}

// x (rows, width) → logits (rows, columns): the norm and then the head.
template <typename X>
void finish(const Norm& norm, const Weight& head, int64_t rows, const X* x, float* logits, int threads) {
  const auto normed = Operand<X>::in_room(0, head.depth, rows, head.rounds);
  std::atomic<int64_t> turn{0};
  together(threads, [&](const Member& me) {
    write_normed(&norm, x, normed, me);
    share(head, normed, turn, me, Place<float>{logits, head.columns});
  });
}

struct Look {
  int64_t best;  // the first of the largest; what is no number is larger than all
  bool finite;
};

inline Look look(const float* x, int64_t count) {
  const Vec endless = all(std::numeric_limits<float>::infinity());
  Vec most = all(-std::numeric_limits<float>::infinity());
  bool finite = true;
  float top = -std::numeric_limits<float>::infinity();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const Vec own = load(x + i);
    finite &= !any(not_below(size_of(own), endless));
    most = largest(own, most);
  }
  for (int64_t j = i; j < count; ++j) finite &= std::isfinite(x[j]), top = std::max(top, x[j]);
  if (!finite) {
    int64_t best = 0;
    for (int64_t j = 1; j < count; ++j)
      if (x[best] == x[best] && (x[j] > x[best] || x[j] != x[j])) best = j;
    return {best, false};
  }
  top = std::max(top, largest_of(most));
  const Vec wanted = all(top);
  int64_t at = 0;
  while (at + 16 <= i && !any(not_below(load(x + at), wanted))) at += 16;
  while (x[at] != top) ++at;
  return {at, true};
}

// Of each row of logits (rows, count), which lie `stride` apart.
inline void look_at(int64_t rows, int64_t count, int64_t stride, const float* logits, int64_t* best, bool* finite, int threads) {
  const auto one = [&](int64_t row) {
    const Look found = look(logits + row * stride, count);
    best[row] = found.best, finite[row] = found.finite;
  };
  together(rows > 1 ? threads : 1, [&](const Member& me) { me.part(rows, one); });
}

}  // namespace dyno
