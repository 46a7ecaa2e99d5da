// A router's choice: logits, scores, the best experts of each token and what they weigh.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "before.h"

namespace dyno {

enum Score : int64_t { SOFTMAX, SIGMOID, SQRT_SOFTPLUS, SPARSE_MIXER };  // the order of SCORES in experts.py

struct Router {
  const Norm* before;       // null: none
  Weight weight;            // of float
  const float* correction;  // is added where experts are chosen, not where they are weighed; null: none
  const float* gain;        // of each expert, which its weight is multiplied by; null: none
  int64_t score, normalise, experts, active;
  int64_t groups, kept, by_best;  // only experts of the `kept` best groups are chosen, by their best expert or their best two
  int64_t capacity;               // choices of one sequence that an expert takes; 0: all
  float scale, tolerance;  // tolerance: of the sparse mixer
};

// What a router decided (model/moe.py: Routing): experts and gates (rows, active), logits (rows, experts), ranked (rows,
// active + 1).
struct Routing {
  int64_t* experts;
  float *gates, *logits, *ranked;
};

// What a router with a capacity has to know: the sequence of each row, and how often its earlier tokens chose each expert, which lies
// `width` numbers from sequence to sequence.
struct Loads {
  const int64_t *sequence, *prior;
  int64_t width;
};

inline void score(const Router& r, const float* logits, float* scores) {
  float top = logits[0], sum = 0.0f;
  for (int64_t e = 1; e < r.experts; ++e) top = logits[e] > top || logits[e] != logits[e] ? logits[e] : top;
  for (int64_t e = 0; e < r.experts; ++e) {
    const float x = logits[e];
    if (r.score == SPARSE_MIXER)
      scores[e] = x;
    else if (r.score == SOFTMAX)
      sum += scores[e] = std::exp(x - top);
    else if (r.score == SIGMOID)
      scores[e] = 1.0f / (1.0f + std::exp(-x));
    else
      scores[e] = std::sqrt(x > 20.0f ? x : std::log1p(std::exp(x)));
  }
  for (int64_t e = 0; r.score == SOFTMAX && e < r.experts; ++e) scores[e] /= sum;
}

// The first of the largest among numbers that `left` lets through; what is no number is larger than all. -1: there is none.
template <typename Left>
inline int64_t best_of(const float* x, int64_t count, Left left) {
  int64_t best = -1;
  for (int64_t i = 0; i < count; ++i) {
    const bool better = best < 0 || x[i] > x[best] || (x[i] != x[i] && x[best] == x[best]);
    if (better && left(i)) best = i;
  }
  return best;
}

// Where only some groups of experts are kept: nothing can choose those of the others. `worth` is room for a number of each group.
inline void limit_to_groups(const Router& r, float* choice, float* worth) {
  constexpr float NOTHING = -std::numeric_limits<float>::infinity();
  const int64_t size = r.experts / r.groups;
  for (int64_t g = 0; g < r.groups; ++g) {
    const float* own = choice + g * size;
    const int64_t best = best_of(own, size, [](int64_t) { return true; });
    const int64_t next = r.by_best ? -1 : best_of(own, size, [=](int64_t i) { return i != best; });
    worth[g] = own[best] + (next < 0 ? 0.0f : own[next]);
  }
  std::vector<bool> kept(r.groups);
  for (int64_t i = 0; i < r.kept; ++i) kept[best_of(worth, r.groups, [&](int64_t g) { return !kept[g]; })] = true;
  for (int64_t e = 0; e < r.experts; ++e)
    if (!kept[e / size]) choice[e] = NOTHING;
}

// What the sparse mixer (model/config.py) gives the best of the experts that are `left`: its part of the softmax over those of
// them that are near it.
template <typename Left>
inline float weight_among_near(const Router& r, const float* logits, int64_t best, Left left) {
  const float top = logits[best];
  float sum = 0.0f;
  for (int64_t e = 0; e < r.experts; ++e)
    if (left(e) && !((top - logits[e]) / std::max(std::abs(logits[e]), top) > r.tolerance)) sum += std::exp(logits[e] - top);
  return 1.0f / sum;
}

// One token's; `scores` and `choice` are room for as many numbers as there are experts, `worth` as there are groups.
inline void choose(const Router& r, const Routing& out, int64_t row, float* scores, float* choice, float* worth) {
  score(r, out.logits + row * r.experts, scores);
  for (int64_t e = 0; e < r.experts; ++e) choice[e] = scores[e] + (r.correction ? r.correction[e] : 0.0f);
  if (r.groups) limit_to_groups(r, choice, worth);
  int64_t* experts = out.experts + row * r.active;
  float *gates = out.gates + row * r.active, *ranked = out.ranked + row * (r.active + 1), sum = 0.0f;
  for (int64_t rank = 0; rank <= r.active; ++rank) {
    const auto left = [&](int64_t e) { return std::find(experts, experts + rank, e) == experts + rank; };
    const int64_t best = best_of(choice, r.experts, left);
    ranked[rank] = best < 0 || std::isinf(choice[best]) ? 0.0f : choice[best];
    if (rank == r.active) break;
    experts[rank] = best;
    sum += gates[rank] = r.score == SPARSE_MIXER ? weight_among_near(r, scores, best, left) : scores[best];
  }
  for (int64_t rank = 0; rank < r.active; ++rank) {
    gates[rank] = gates[rank] / (r.normalise ? sum + 1e-20f : 1.0f) * r.scale;
    if (r.gain) gates[rank] *= r.gain[experts[rank]];
  }
}

// Marks with ~id the choices that come after those an expert takes of their sequence, and weighs them 0.
inline void drop_over_capacity(const Router& r, const Loads& loads, int64_t rows, const Routing& out) {
  std::vector<int64_t> asked(r.experts);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t own = loads.sequence[row];
    if (row == 0 || own != loads.sequence[row - 1]) std::copy_n(loads.prior + own * loads.width, r.experts, asked.begin());
    for (int64_t c = row * r.active; c < (row + 1) * r.active; ++c)
      if (int64_t& expert = out.experts[c]; asked[expert]++ >= r.capacity) expert = ~expert, out.gates[c] = 0.0f;
  }
}

// x (rows, width) → what the router decides of each row, before any capacity.
template <typename X>
void route(const Router& r, int64_t rows, const X* x, const Routing& out, int threads) {
  const int64_t width = r.weight.depth;
  const auto taken = Operand<float>::in_room(0, width, rows);
  std::atomic<int64_t> turn{0};
  together(threads, [&](const Member& me) {
    write_rows(taken, me, [&](int64_t row, int64_t from, int64_t to) {
      const auto pen = taken.pen(row);
      normalise(r.before, x + row * width, width, from, to, [&](int64_t at, Vec y) {
        X normed[16];  // rounded to the type of x, as a norm by itself does: near ties end the same
        store(normed, y);
        pen.put(at, load(normed));
      });
    });
    share(r.weight, taken, turn, me, Place<float>{out.logits, r.weight.columns});
    std::vector<float> scratch(2 * r.experts + r.groups);
    float* const room = scratch.data();
    me.meet();
    me.part(rows, [&](int64_t row) { choose(r, out, row, room, room + r.experts, room + 2 * r.experts); });
  });
}

}  // namespace dyno
