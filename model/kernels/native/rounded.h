// Rows rounded to 8 bits, and products of whole numbers with weights of 8 bits.
//
// Every 32 numbers of a row are rounded to multiples of a 127th of the largest of them. Their products with the weights are
// added up exactly, in whole numbers; then the sums of all such groups in float, in the order of the columns of x.
#pragma once

#include <limits>

#include "operand.h"

namespace dyno {

constexpr int64_t GROUP = 32, FOUR = 4;  // numbers of a row that are rounded together; that meet in one step

// M rows with V times 16 columns. The weights are bytes that are 128 too large, as the processor wants one factor without a
// sign; `less` is what a group's sum has to begin with for that.
template <int M, int V>
__attribute__((noinline)) void rounded_tile(const int8_t* x, const float* scales, const int32_t* less, const uint8_t* w,
                                            int64_t stride, int64_t groups, Ahead ahead, float* sums, int64_t pitch) {
  constexpr int64_t cell = PANEL * FOUR, steps = GROUP / FOUR;
  Vec sum[M][V];
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[m][v] = zero();
  for (int64_t g = 0, due = 0; g < groups; ++g, x += GROUP * M, w += steps * cell, scales += M, less += M) {
    Ints part[M][V];
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) part[m][v] = ints(less[m]);
    ahead.ask_due(due, groups);
#pragma GCC unroll 8
    for (int64_t s = 0; s < steps; ++s) {
      Ints columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = ints(w + v / 2 * stride + s * cell + v % 2 * cell / 2);
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m) {
        int32_t four;
        std::memcpy(&four, x + (s * M + m) * FOUR, FOUR);
        const Ints row = ints(four);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) part[m][v] = add_products(part[m][v], columns[v], row);
      }
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[m][v] = fma(floats(part[m][v]), all(scales[m]), sum[m][v]);
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(sums + m * pitch + 16 * v, sum[m][v]);
}

// Rounded rows, for panels(). Behind the rows themselves lie, of each block, cells of four bytes as in an interleaved
// operand; then of each block and group one scale a row, and one number that its sum begins with.
template <typename X>
struct RoundedRows {
  using Kept = uint8_t;
  static constexpr int64_t sums = SUMS / 2, most = MOST / 2, cell = PANEL * FOUR, at_once = AT_ONCE;
  const Operand<X>& x;
  const Blocks& blocks = x.blocks;

  int64_t groups() const { return x.depth / GROUP; }
  int8_t* bytes(int64_t block) const {
    return reinterpret_cast<int8_t*>(x.data + (blocks.rows + TILE - 1) / TILE * TILE * x.depth) + blocks.start(block) * x.depth;
  }
  float* scales(int64_t block) const {
    return reinterpret_cast<float*>(bytes(0) + blocks.rows * x.depth) + blocks.start(block) * groups();
  }
  int32_t* less(int64_t block) const {
    return reinterpret_cast<int32_t*>(scales(0) + blocks.rows * groups()) + blocks.start(block) * groups();
  }

  // Group g of a row.
  void round(int64_t row, int64_t g) const {
    const int64_t b = blocks.of(row), M = blocks.size(b), m = row - blocks.start(b);
    const auto* numbers = x.data + row * x.depth + g * GROUP;
    alignas(64) int8_t whole[GROUP];
    const Vec first = load(numbers), second = load(numbers + 16);
    const Vec sizes = size_of(first), more = size_of(second), endless = all(std::numeric_limits<float>::infinity());
    const bool finite = !any(not_below(sizes, endless)) && !any(not_below(more, endless));
    const float most = finite ? largest_of(largest(sizes, more)) : std::numeric_limits<float>::quiet_NaN();
    const bool some = most > 127 / std::numeric_limits<float>::max();  // else they are nothing, or no numbers
    const Vec factor = all(some ? 127 / most : 0);
    const auto scaled_to_bytes = [&](Vec part) { return some ? part * factor : zero(); };
    const int32_t sum = narrowed(scaled_to_bytes(first), whole) + narrowed(scaled_to_bytes(second), whole + 16);
    for (int64_t c = 0; c < GROUP / FOUR; ++c)
      std::memcpy(bytes(b) + ((g * GROUP / FOUR + c) * M + m) * FOUR, whole + c * FOUR, FOUR);
    scales(b)[g * M + m] = most / 127;
    less(b)[g * M + m] = -128 * sum;
  }

  template <int M, int V>
  void meet(int64_t b, const uint8_t* w, Ahead ahead, float* to, int64_t pitch) const {
    rounded_tile<M, V>(bytes(b), scales(b), less(b), w, x.depth * PANEL, groups(), ahead, to, pitch);
  }
};

}  // namespace dyno
