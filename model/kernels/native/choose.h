// Learned sparse selection (model/indexer.py): small heads score the last numbers of every key that a token sees, and it attends
// to the best of them.
#pragma once

#include <functional>

#include "paged.h"

namespace dyno {

struct Selection {
  const void *query, *weights;  // of every token: `heads` times `dim` numbers, and `heads`
  int64_t heads, dim, most;     // of the keys that it sees, a token attends to so many; heads 0: to all
};

// A token, the positions that it sees, and its pages from position `start` on.
struct Viewer {
  int64_t token, first, last;
  const int64_t* entries;
  int64_t start;
};

template <typename T>
struct Chooser {
  Paged small;  // how its heads look at the numbers behind those of a key
  const T *query, *weights, *keys;
  int64_t most;

  Chooser(const Paged& p, const Selection& s, const T* keys)
      : small(p), query((const T*)s.query), weights((const T*)s.weights), keys(keys + p.key_dim), most(s.most) {
    small.heads = s.heads, small.key_dim = s.dim;
  }

  // Marks what a token attends to: a bit for each position, a word for each block. Of equal keys the earlier are taken.
  template <typename Way>
  void choose(const Viewer& v, uint64_t* chosen, std::vector<float>& scratch) const {
    const int64_t count = v.last + 1 - v.first, from = v.first / KEYS;
    std::fill(chosen + from, chosen + v.last / KEYS + 1, count > most ? 0 : ALL);
    if (count <= most) return;
    scratch.resize(small.heads * KEYS + 2 * count);
    float *worth = scratch.data() + small.heads * KEYS, *ranked = worth + count;
    score<Way>(v, scratch.data(), worth - v.first);
    std::copy_n(worth, count, ranked);
    std::nth_element(ranked, ranked + most - 1, ranked + count, std::greater<>());
    const float least = ranked[most - 1];
    int64_t equal = most - std::count_if(worth, worth + count, [=](float x) { return x > least; });
    for (int64_t i = 0; i < count; ++i)
      if (worth[i] > least || (worth[i] == least && equal-- > 0)) mark(chosen, v.first + i);
  }

 private:
  static void mark(uint64_t* chosen, int64_t position) { chosen[position / KEYS] |= uint64_t(1) << position % KEYS; }

  // What each position is worth; what is no number is worth most.
  template <typename Way>
  void score(const Viewer& v, float* products, float* worth) const {
    const T* own = weights + v.token * small.heads;
    for (int64_t at = v.first / KEYS * KEYS; at <= v.last; at += KEYS) {
      const Seen seen{std::max(v.first - at, int64_t(0)), std::min(v.last + 1 - at, KEYS), v.last - at};
      const Places<T, Way::size> block(small, seen, at, v.entries, v.start, keys, keys);
      Way::multiply(small, 0, query + v.token * small.heads * small.key_dim, block, seen, products, [](int64_t) {});
      float *from = worth + at + seen.from, *to = worth + at + seen.to;
      std::fill(from, to, 0.0f);
      for (int64_t j = 0; j < small.heads; ++j) {
        const float weight = widen(own[j]), *product = products + j * KEYS + seen.from;
        for (float* sum = from; sum < to; ++sum, ++product) *sum += weight * std::max(*product, 0.0f);
      }
      std::replace_if(from, to, [](float x) { return x != x; }, std::numeric_limits<float>::infinity());
    }
  }
};

}  // namespace dyno
