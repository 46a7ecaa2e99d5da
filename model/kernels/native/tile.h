// A few rows with a few columns, their sums in registers: what linear layers spend their time in.
#pragma once

#include "operand.h"

namespace dyno {

// M rows with V times 16 columns: the sums in registers, then in `sums` at m * pitch.
template <typename X, typename W, int M, int V>
__attribute__((noinline)) void tile(const typename Cell<X, W>::Number* x, const W* w, int64_t stride, int64_t steps, Ahead ahead,
                                    float* sums, int64_t pitch) {
  using C = Cell<X, W>;
  constexpr int64_t cell = PANEL * C::depth;
  Vec sum[M][V];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[m][v] = zero();
  for (int64_t s = 0, due = 0; s < steps; ++s) {
    const auto weights = [&](int v) { return C::weights(w + v / 2 * stride + s * cell + v % 2 * cell / 2); };
    const auto spread = [&](int m) { return C::spread(x + (s * M + m) * C::depth); };
    ahead.ask_due(due, steps);
    if constexpr (M < V) {  // the fewer stay in registers
      decltype(spread(0)) rows[M];
#pragma GCC unroll 12
      for (int m = 0; m < M; ++m) rows[m] = spread(m);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const auto column = weights(v);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) sum[m][v] = C::add(sum[m][v], rows[m], column);
      }
    } else {
      decltype(weights(0)) columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = weights(v);
#pragma GCC unroll 12
      for (int m = 0; m < M; ++m) {
        const auto row = spread(m);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[m][v] = C::add(sum[m][v], row, columns[v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(sums + m * pitch + 16 * v, sum[m][v]);
}

// Rows as they are, for panels().
template <typename X, typename W>
struct WholeRows {
  using Kept = W;
  static constexpr int64_t sums = SUMS, most = MOST, cell = PANEL * Cell<X, W>::depth, at_once = sizeof(X) == sizeof(W) ? AT_ONCE : 1;
  const Operand<X>& x;
  const Blocks& blocks = x.blocks;

  template <int M, int V>
  void meet(int64_t block, const W* w, Ahead ahead, float* to, int64_t pitch) const {
    tile<X, W, M, V>(x.block(block), w, x.depth * PANEL, x.depth / Cell<X, W>::depth, ahead, to, pitch);
  }
};

}  // namespace dyno
