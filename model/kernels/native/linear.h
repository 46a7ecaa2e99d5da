// y = x Wᵀ for weights laid out in panels, each 32 columns wide and as long as the rows of x are.
//
// A panel is read front to back once for every block of up to 12 rows: with few rows a step is bound by reading weights,
// with many by multiplying, and neither pays for the other. A number of y is one chain of additions in the order of the
// columns of x, whatever rows stand beside it: the rows of a batch cannot change each other's results. Where the processor
// has matrix tiles, bfloat16 goes through them from seven rows on, whose sums may round otherwise.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>

#include "tiles.h"
#include "vector.h"

namespace dyno {

constexpr int64_t PANEL = 32, MOST = 12;  // columns of a panel; rows of a block: 24 of 32 registers hold sums

// What one step along x multiplies: `depth` numbers of each row with as many of each of 16 columns.
template <typename X, typename W>
struct Cell;

template <>
struct Cell<float, float> {
  static constexpr int64_t depth = 1;
  static inline __m512 weights(const float* w) { return _mm512_loadu_ps(w); }
  static inline __m512 spread(const float* x) { return _mm512_set1_ps(*x); }
  static inline __m512 add(__m512 sum, __m512 x, __m512 w) { return _mm512_fmadd_ps(x, w, sum); }
};

template <>
struct Cell<float, int8_t> : Cell<float, float> {
  static inline __m512 weights(const int8_t* w) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)w)));
  }
};

#ifdef __AVX512BF16__
template <>
struct Cell<bf16, bf16> {
  static constexpr int64_t depth = 2;
  static inline __m512i weights(const bf16* w) { return _mm512_loadu_si512(w); }
  static inline __m512i spread(const bf16* x) {
    int32_t two;
    std::memcpy(&two, x, 4);
    return _mm512_set1_epi32(two);
  }
  static inline __m512 add(__m512 sum, __m512i x, __m512i w) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }
};

template <>
struct Cell<bf16, int8_t> : Cell<bf16, bf16> {
  static inline __m512i weights(const int8_t* w) {  // whole numbers up to 256 are exact in bfloat16
    return (__m512i)_mm512_cvtne2ps_pbh(Cell<float, int8_t>::weights(w + 16), Cell<float, int8_t>::weights(w));
  }
};
#endif

// Rows cut into blocks of the same size, at most MOST, the last one smaller.
struct Blocks {
  int64_t rows, most, count;
  explicit Blocks(int64_t rows) : rows(rows) {
    const int64_t least = std::max<int64_t>((rows + MOST - 1) / MOST, 1);
    most = std::max<int64_t>((rows + least - 1) / least, 1);
    count = (rows + most - 1) / most;
  }
  int64_t start(int64_t block) const { return block * most; }
  int64_t size(int64_t block) const { return std::min(most, rows - block * most); }
  int64_t of(int64_t row) const { return uint32_t(row) / uint32_t(most); }  // asked for every result: short division
};

constexpr int64_t TILE = 16, TILE_DEPTH = 32;  // rows of a tile, and bfloat16 in each of them

// Whether so many rows are worth matrix tiles.
template <typename X>
inline bool tiled(int64_t rows, int64_t depth) {
#ifdef DYNO_TILES
  return sizeof(X) == 2 && rows > MOST / 2 && depth % TILE_DEPTH == 0 && tiles_allowed();
#else
  return (void)rows, (void)depth, false;
#endif
}

// The rows a linear layer reads. For vectors they are interleaved within their block: cell s of row m lies at
// (s * block size + m), so that a step reads one short run of memory and never strides over pages. For tiles every 16 rows
// are cut into tiles, one after another.
template <typename X>
struct Operand {
  X* data;
  int64_t depth;
  Blocks blocks;
  bool tiles;

  Operand(X* data, int64_t depth, int64_t rows) : data(data), depth(depth), blocks(rows), tiles(tiled<X>(rows, depth)) {}

  // Numbers that `rows` rows take.
  static int64_t size(int64_t rows, int64_t depth) { return (rows + TILE - 1) / TILE * TILE * depth; }

  const X* block(int64_t b) const { return data + blocks.start(b) * depth; }

  // One row's pen: put() writes 16 numbers of the row, from column `at` (a multiple of 16) on.
  struct Pen {
    X* row;
    int64_t stride;  // between cells, in cells; 0 for tiles
    inline void put(int64_t at, __m512 x) const {
      constexpr int64_t depth = Cell<X, X>::depth, cells = 16 / depth;
      if (!stride) return store(row + at / TILE_DEPTH * (TILE * TILE_DEPTH) + at % TILE_DEPTH, x);
      alignas(64) X values[16];
      store(values, x);
      X* to = row + at * stride;
      for (int64_t c = 0; c < cells; ++c) std::memcpy(to + c * stride * depth, values + c * depth, sizeof(X) * depth);
    }
  };
  Pen pen(int64_t row) const {
    if (tiles) return {data + row / TILE * TILE * depth + row % TILE * TILE_DEPTH, 0};
    const int64_t b = blocks.of(row);
    return {data + blocks.start(b) * depth + (row - blocks.start(b)) * Cell<X, X>::depth, blocks.size(b)};
  }
};

// Lines of memory to ask for while something else is computed: nobody waits for them then.
struct Ahead {
  const char* at = nullptr;
  int64_t lines = 0;

  // Part `part` of `parts`.
  Ahead share(int64_t part, int64_t parts) const {
    const int64_t from = lines * part / parts;
    return {at + 64 * from, lines * (part + 1) / parts - from};
  }
};

// The weights of one layer as Python hands them over. `scales` belongs to int8 weights, one for each column.
struct Weight {
  const void* panels;
  const float* scales;
  const float* bias;
  int64_t depth, columns;

  int64_t count() const { return (columns + PANEL - 1) / PANEL; }

  // A panel as something to be asked for early; nothing behind the last one.
  template <typename X>
  Ahead ahead(int64_t panel) const {
    if (panel >= count()) return {};
    const int64_t bytes = depth * PANEL * (scales ? 1 : int64_t(sizeof(X)));
    return {static_cast<const char*>(panels) + panel * bytes, bytes / 64};
  }
};

// So many numbers from `at` on.
template <typename W>
inline Ahead whole(const W* at, int64_t numbers) {
  return {(const char*)at, numbers * int64_t(sizeof(W)) / 64};
}

// M rows with P panels: M * 2P sums in registers, left in `sums` (M, P * 32).
template <typename X, typename W, int M, int P>
__attribute__((noinline)) void tile(const X* x, const W* w, int64_t stride, int64_t steps, Ahead ahead, float* sums) {
  using C = Cell<X, W>;
  constexpr int64_t cell = PANEL * C::depth;
  __m512 sum[M][2 * P];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int p = 0; p < 2 * P; ++p) sum[m][p] = _mm512_setzero_ps();
  for (int64_t s = 0, due = 0; s < steps; ++s) {
    decltype(C::weights(w)) weights[2 * P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      weights[2 * p] = C::weights(w + p * stride + s * cell);
      weights[2 * p + 1] = C::weights(w + p * stride + s * cell + cell / 2);
    }
    for (due += ahead.lines; due >= steps; due -= steps, ahead.at += 64) _mm_prefetch(ahead.at, _MM_HINT_T1);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const auto spread = C::spread(x + (s * M + m) * C::depth);
#pragma GCC unroll 8
      for (int p = 0; p < 2 * P; ++p) sum[m][p] = C::add(sum[m][p], spread, weights[p]);
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int p = 0; p < 2 * P; ++p) store(sums + (m * 2 * P + p) * 16, sum[m][p]);
}

// The tile for a number of rows, at most M, known only now.
template <typename X, typename W, int P, int M>
inline void tile_of(int64_t rows, const X* x, const W* w, int64_t stride, int64_t steps, Ahead ahead, float* sums) {
  if constexpr (M > 0) {
    if (rows == M)
      tile<X, W, M, P>(x, w, stride, steps, ahead, sums);
    else
      tile_of<X, W, P, M - 1>(rows, x, w, stride, steps, ahead, sums);
  }
}

#ifdef DYNO_TILES
// One panel with 32 rows, or with 16 where `both` is false; sums (32, 32).
template <bool both>
__attribute__((noinline)) void matrix(const bf16* x, const bf16* w, int64_t depth, float* sums) {
  constexpr int64_t row = PANEL * 4;  // bytes of a pair of columns of x in the panel, and of 32 sums
  TILE_ZERO(0);
  TILE_ZERO(1);
  if (both) TILE_ZERO(2);
  if (both) TILE_ZERO(3);
  for (int64_t k = 0; k < depth; k += TILE_DEPTH) {
    const bf16* pairs = w + k * PANEL;
    TILE_LOAD(6, pairs, row);
    TILE_LOAD(7, pairs + PANEL, row);
    TILE_LOAD(4, x + k * TILE, 64);
    TILE_ADD(0, 4, 6);
    TILE_ADD(1, 4, 7);
    if (both) TILE_LOAD(5, x + (depth + k) * TILE, 64);
    if (both) TILE_ADD(2, 5, 6);
    if (both) TILE_ADD(3, 5, 7);
  }
  TILE_STORE(0, sums, row);
  TILE_STORE(1, sums + 16, row);
  if (both) TILE_STORE(2, sums + TILE * PANEL, row);
  if (both) TILE_STORE(3, sums + TILE * PANEL + 16, row);
}

// Panels [from, to) for all rows, by matrix tiles.
template <typename End>
void matrices(int64_t from, int64_t to, const Operand<bf16>& x, const bf16* w, End& end) {
  const TilesInUse in_use;
  const int64_t rows = x.blocks.rows;
  alignas(64) float sums[2 * TILE * PANEL];
  for (int64_t p = from; p < to; ++p)
    for (int64_t row = 0; row < rows; row += 2 * TILE) {
      const int64_t count = std::min(2 * TILE, rows - row);
      (count > TILE ? matrix<true> : matrix<false>)(x.data + row * x.depth, w + p * x.depth * PANEL, x.depth, sums);
      for (int64_t m = 0; m < count; ++m) end(row + m, p, load(sums + m * PANEL), load(sums + m * PANEL + 16));
    }
}
#endif

// Panels [from, to) for all rows; `then` is the panel that this thread will need next. Few rows take several panels at
// once: one chain of additions alone would wait.
template <typename X, typename W, typename End>
void panels(int64_t from, int64_t to, const Operand<X>& x, const W* w, End& end, Ahead then = {}) {
#ifdef DYNO_TILES
  if constexpr (sizeof(X) == 2 && sizeof(W) == 2)
    if (x.tiles) return matrices(from, to, x, w, end);
#endif
  const int64_t stride = x.depth * PANEL, steps = x.depth / Cell<X, W>::depth, rows = x.blocks.rows;
  alignas(64) float sums[MOST * PANEL];
  auto finish = [&](int64_t row, int64_t count, int64_t panel, int64_t together) {
    const float* sum = sums;
    for (int64_t m = 0; m < count; ++m)
      for (int64_t i = 0; i < together; ++i, sum += PANEL) end(row + m, panel + i, load(sum), load(sum + 16));
  };
  int64_t p = from;
  for (; rows <= 3 && p + 4 <= to; p += 4) {
    tile_of<X, W, 4, 3>(rows, x.data, w + p * stride, stride, steps, {}, sums);
    finish(0, rows, p, 4);
  }
  for (; rows <= 6 && p + 2 <= to; p += 2) {
    tile_of<X, W, 2, 6>(rows, x.data, w + p * stride, stride, steps, {}, sums);
    finish(0, rows, p, 2);
  }
  for (; p < to; ++p) {
    const Ahead next = p + 1 < to ? whole(w + (p + 1) * stride, stride) : then;
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Ahead ahead = next.share(b, x.blocks.count);
      tile_of<X, W, 1, MOST>(x.blocks.size(b), x.block(b), w + p * stride, stride, steps, ahead, sums);
      finish(x.blocks.start(b), x.blocks.size(b), p, 1);
    }
  }
}

// Memory of one thread, kept between calls.
template <typename T>
T* room(int64_t count, int which) {
  thread_local std::unique_ptr<char[]> rooms[8];
  thread_local int64_t sizes[8] = {};
  const int64_t bytes = count * sizeof(T) + 64;
  if (sizes[which] < bytes) {
    rooms[which] = std::make_unique<char[]>(bytes);
    sizes[which] = bytes;
  }
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(rooms[which].get()) + 63) / 64 * 64);
}

constexpr int WIDENED = 7;  // the room of panels() over int8

// int8 weights for many rows: a panel is widened once and then read by every block of rows.
template <typename X, typename End>
void widened(int64_t from, int64_t to, const Operand<X>& x, const int8_t* w, End& end, Ahead then) {
  const int64_t stride = x.depth * PANEL;
  if (x.blocks.count == 1 && !x.tiles) return panels<X, int8_t>(from, to, x, w, end, then);
  X* wide = room<X>(stride, WIDENED);
  for (int64_t p = from; p < to; ++p) {
    for (int64_t i = 0; i < stride; i += 16) store(wide + i, Cell<float, int8_t>::weights(w + p * stride + i));
    auto shifted = [&](int64_t row, int64_t, __m512 a, __m512 b) { end(row, p, a, b); };
    panels<X, X>(0, 1, x, wide, shifted, p + 1 < to ? whole(w + (p + 1) * stride, stride) : then);
  }
}

// Panels [from, to) of one linear layer. `end` gets, for a row and a panel, both halves of the result as they leave the
// sums, scaled and with the bias.
template <typename X, typename End>
void share_part(const Weight& weight, const Operand<X>& x, int64_t from, int64_t to, Ahead then, End end) {
  auto finish = [&](int64_t row, int64_t panel, __m512 a, __m512 b) {
    const int64_t column = panel * PANEL;
    if (weight.scales) {
      a = _mm512_mul_ps(a, _mm512_loadu_ps(weight.scales + column));
      b = _mm512_mul_ps(b, _mm512_loadu_ps(weight.scales + column + 16));
    }
    if (weight.bias) {
      a = _mm512_add_ps(a, _mm512_loadu_ps(weight.bias + column));
      b = _mm512_add_ps(b, _mm512_loadu_ps(weight.bias + column + 16));
    }
    end(row, panel, a, b);
  };
  if (weight.scales)
    widened<X>(from, to, x, static_cast<const int8_t*>(weight.panels), finish, then);
  else
    panels<X, X>(from, to, x, static_cast<const X*>(weight.panels), finish, then);
}

// A thread's share of one linear layer: it takes turns with the others until no panel is left.
template <typename X, typename End>
void share(const Weight& weight, const Operand<X>& x, std::atomic<int64_t>& turn, int threads, End end) {
  const int64_t count = weight.count(), group = x.blocks.rows <= 3 ? 4 : 2;
  const int64_t chunk = std::max<int64_t>(count / (threads * 8) / group, 1) * group;
  const auto take = [&] { return turn.fetch_add(chunk, std::memory_order_relaxed); };
  for (int64_t from = take(), next; from < count; from = next) {  // the next part is taken early, to be fetched
    next = take();
    share_part<X>(weight, x, from, std::min(from + chunk, count), weight.ahead<X>(next), end);
  }
}

// Writes columns [0, columns) of rows of `out`; the padding of the last panel is left out.
template <typename Y>
struct Place {
  Y* out;
  int64_t columns;
  inline void operator()(int64_t row, int64_t panel, __m512 a, __m512 b) const {
    const int64_t at = panel * PANEL;
    Y* to = out + row * columns + at;
    if (at + PANEL <= columns) {
      store(to, a);
      store(to + 16, b);
      return;
    }
    Y spare[PANEL];
    store(spare, a);
    store(spare + 16, b);
    std::copy_n(spare, columns - at, to);
  }
};

}  // namespace dyno
