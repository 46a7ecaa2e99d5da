// A router's choice: logits, scores, the best experts of each token and what they weigh.
#pragma once

#include <algorithm>
#include <vector>

#include "linear.h"

namespace dyno {

enum Score : int64_t { SOFTMAX, SIGMOID, SQRT_SOFTPLUS };  // the order of SCORES in experts.py

struct Router {
  Weight weight;            // of float
  const float* correction;  // is added where experts are chosen, not where they are weighed; null: none
  int64_t score, normalise, experts, active;
  float scale;
};

// What a router decided (model/moe.py: Routing): experts and gates (rows, active), logits (rows, experts), ranked (rows,
// active + 1).
struct Routing {
  int64_t* experts;
  float *gates, *logits, *ranked;
};

inline void score(const Router& r, const float* logits, float* scores) {
  float top = logits[0], sum = 0.0f;
  for (int64_t e = 1; e < r.experts; ++e) top = logits[e] > top || logits[e] != logits[e] ? logits[e] : top;
  for (int64_t e = 0; e < r.experts; ++e) {
    const float x = logits[e];
    if (r.score == SOFTMAX)
      sum += scores[e] = std::exp(x - top);
    else if (r.score == SIGMOID)
      scores[e] = 1.0f / (1.0f + std::exp(-x));
    else
      scores[e] = std::sqrt(x > 20.0f ? x : std::log1p(std::exp(x)));
  }
  for (int64_t e = 0; r.score == SOFTMAX && e < r.experts; ++e) scores[e] /= sum;
}

// One token's; `scores` and `choice` are room for as many numbers as there are experts. Of equals the first is better, and
// what is no number is better than all.
inline void choose(const Router& r, const Routing& out, int64_t row, float* scores, float* choice) {
  score(r, out.logits + row * r.experts, scores);
  for (int64_t e = 0; e < r.experts; ++e) choice[e] = scores[e] + (r.correction ? r.correction[e] : 0.0f);
  int64_t* experts = out.experts + row * r.active;
  float *gates = out.gates + row * r.active, *ranked = out.ranked + row * (r.active + 1), sum = 0.0f;
  const auto taken = [&](int64_t e, int64_t rank) { return std::find(experts, experts + rank, e) != experts + rank; };
  for (int64_t rank = 0; rank <= r.active; ++rank) {
    int64_t best = -1;
    for (int64_t e = 0; e < r.experts; ++e) {
      const bool better = best < 0 || choice[e] > choice[best] || (choice[e] != choice[e] && choice[best] == choice[best]);
      if (better && !taken(e, rank)) best = e;
    }
    ranked[rank] = best < 0 ? 0.0f : choice[best];
    if (rank < r.active) experts[rank] = best, sum += gates[rank] = scores[best];
  }
  for (int64_t rank = 0; rank < r.active; ++rank) gates[rank] = gates[rank] / (r.normalise ? sum + 1e-20f : 1.0f) * r.scale;
}

// x (rows, width) → what the router decides of each row.
template <typename X>
void route(const Router& r, int64_t rows, const X* x, const Routing& out, int threads) {
  const int64_t width = r.weight.depth;
  const auto taken = Operand<float>::in_room(0, width, rows);
  std::atomic<int64_t> turn{0};
  together(threads, [&](const Member& me) {
    write_rows(taken, me, [&](int64_t row, int64_t from, int64_t to) { take(x + row * width, from, to, taken.pen(row)); });
    share(r.weight, taken, turn, me, Place<float>{out.logits, r.weight.columns});
    std::vector<float> scratch(2 * r.experts);
    me.meet();
    me.part(rows, [&](int64_t row) { choose(r, out, row, scratch.data(), scratch.data() + r.experts); });
  });
}

}  // namespace dyno
