// y = x Wᵀ for weights laid out in panels, each 32 columns wide and as long as the rows of x are.
//
// A panel is read front to back once for every block of up to MOST rows: with few rows a step is bound by reading weights,
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

constexpr int64_t PANEL = 32;  // columns of a panel

// bfloat16 rows stay what they are where the processor multiplies them or has tiles; else they are widened once.
#if defined(__AVX512BF16__) || defined(DYNO_TILES)
#define DYNO_NARROW_ROWS
#endif

// What one step along x multiplies: `depth` numbers of each row, kept as `Number`, with as many of each of 16 columns.
template <typename X, typename W>
struct Cell;

template <>
struct Cell<float, float> {
  using Number = float;
  static constexpr int64_t depth = 1;
  static inline Vec weights(const float* w) { return load(w); }
  static inline Vec spread(const float* x) { return all(*x); }
  static inline Vec add(Vec sum, Vec x, Vec w) { return fma(x, w, sum); }
};

template <>
struct Cell<float, int8_t> : Cell<float, float> {
  static inline Vec weights(const int8_t* w) { return load(w); }
};

template <>
struct Cell<bf16, bf16> {
  static constexpr int64_t depth = 2;
  static inline auto weights(const bf16* w) { return Products<bf16>::take(w); }
  template <typename Two>
  static inline Vec add(Vec sum, const Two& x, const Two& w) {
    return Products<bf16>::add(sum, x, w);
  }
#ifdef __AVX512BF16__
  using Number = bf16;
  static inline __m512i spread(const bf16* x) {
    int32_t two;
    std::memcpy(&two, x, 4);
    return _mm512_set1_epi32(two);
  }
#else
#ifdef DYNO_NARROW_ROWS
  using Number = bf16;
#else
  using Number = float;
#endif
  static inline Pair spread(const Number* x) { return {all(widen(x[0])), all(widen(x[1]))}; }
#endif
};

template <>
struct Cell<bf16, int8_t> : Cell<bf16, bf16> {
#ifdef __AVX512BF16__
  static inline __m512i weights(const int8_t* w) {  // whole numbers up to 256 are exact in bfloat16
    return (__m512i)_mm512_cvtne2ps_pbh(load(w + 16), load(w));
  }
#else
  static inline Pair weights(const int8_t* w) { return pair(w); }
#endif
};

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

// The rows a linear layer reads. For vectors they are interleaved within their block: cell s of row m lies at
// (s * block size + m), so that a step reads one short run of memory and never strides over pages. For tiles every 16 rows
// are cut into tiles, one after another.
template <typename X>
struct Operand {
  using Number = typename Cell<X, X>::Number;

  Number* data;
  int64_t depth;
  Blocks blocks;
  bool tiles;

  Operand(Number* data, int64_t depth, int64_t rows) : data(data), depth(depth), blocks(rows), tiles(tiled<X>(rows, depth)) {}

  // Numbers that `rows` rows take.
  static int64_t size(int64_t rows, int64_t depth) { return (rows + TILE - 1) / TILE * TILE * depth; }
  static Operand in_room(int which, int64_t depth, int64_t rows) { return {room<Number>(size(rows, depth), which), depth, rows}; }

  const Number* block(int64_t b) const { return data + blocks.start(b) * depth; }

  // One row's pen: put() writes 16 numbers of the row, from column `at` (a multiple of 16) on.
  struct Pen {
    Number* row;
    int64_t stride;  // between cells, in cells; 0 for tiles
    inline void put(int64_t at, Vec x) const {
      constexpr int64_t depth = Cell<X, X>::depth, cells = 16 / depth;
      if (!stride) return store(row + at / TILE_DEPTH * (TILE * TILE_DEPTH) + at % TILE_DEPTH, x);
      alignas(64) Number values[16];
      store(values, x);
      Number* to = row + at * stride;
      for (int64_t c = 0; c < cells; ++c) std::memcpy(to + c * stride * depth, values + c * depth, sizeof(Number) * depth);
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
    for (due += ahead.lines; due >= steps; due -= steps, ahead.at += 64) _mm_prefetch(ahead.at, _MM_HINT_T1);
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

// The tile for a number of rows, at most M, known only now.
template <typename X, typename W, int V, int M>
inline void tile_of(int64_t rows, const typename Cell<X, W>::Number* x, const W* w, int64_t stride, int64_t steps, Ahead ahead,
                    float* sums, int64_t pitch) {
  if constexpr (M > 0) {
    if (rows == M)
      tile<X, W, M, V>(x, w, stride, steps, ahead, sums, pitch);
    else
      tile_of<X, W, V, M - 1>(rows, x, w, stride, steps, ahead, sums, pitch);
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
  constexpr int64_t cell = PANEL * Cell<X, W>::depth;
  const int64_t stride = x.depth * PANEL, steps = x.depth / Cell<X, W>::depth, rows = x.blocks.rows;
  alignas(64) float sums[MOST * PANEL];
  auto finish = [&](int64_t row, int64_t count, int64_t panel, int64_t together) {
    const float* sum = sums;
    for (int64_t m = 0; m < count; ++m)
      for (int64_t i = 0; i < together; ++i, sum += PANEL) end(row + m, panel + i, load(sum), load(sum + 16));
  };
  int64_t p = from;
  for (; rows <= SUMS / 8 && p + 4 <= to; p += 4) {
    tile_of<X, W, 8, SUMS / 8>(rows, x.data, w + p * stride, stride, steps, {}, sums, 4 * PANEL);
    finish(0, rows, p, 4);
  }
  for (; rows <= SUMS / 4 && p + 2 <= to; p += 2) {
    tile_of<X, W, 4, SUMS / 4>(rows, x.data, w + p * stride, stride, steps, {}, sums, 2 * PANEL);
    finish(0, rows, p, 2);
  }
  for (; p < to; ++p) {
    const W* own = w + p * stride;
    const Ahead next = p + 1 < to ? whole(own + stride, stride) : then;
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Ahead ahead = next.share(b, x.blocks.count);
      const int64_t size = x.blocks.size(b);
      if (size <= SUMS / 2) {
        tile_of<X, W, 2, SUMS / 2>(size, x.block(b), own, stride, steps, ahead, sums, PANEL);
      } else {
        tile_of<X, W, 1, MOST>(size, x.block(b), own, stride, steps, ahead, sums, PANEL);
        tile_of<X, W, 1, MOST>(size, x.block(b), own + cell / 2, stride, steps, {}, sums + 16, PANEL);
      }
      finish(x.blocks.start(b), size, p, 1);
    }
  }
}

constexpr int WIDENED = 7;  // the room of panels() over int8

// int8 weights for many rows: a panel is widened once and then read by every block of rows.
template <typename X, typename End>
void widened(int64_t from, int64_t to, const Operand<X>& x, const int8_t* w, End& end, Ahead then) {
  const int64_t stride = x.depth * PANEL;
  if (x.blocks.count == 1 && !x.tiles) return panels<X, int8_t>(from, to, x, w, end, then);
  X* wide = room<X>(stride, WIDENED);
  for (int64_t p = from; p < to; ++p) {
    for (int64_t i = 0; i < stride; i += 16) store(wide + i, load(w + p * stride + i));
    auto shifted = [&](int64_t row, int64_t, Vec a, Vec b) { end(row, p, a, b); };
    panels<X, X>(0, 1, x, wide, shifted, p + 1 < to ? whole(w + (p + 1) * stride, stride) : then);
  }
}

// Panels [from, to) of one linear layer. `end` gets, for a row and a panel, both halves of the result as they leave the
// sums, scaled and with the bias.
template <typename X, typename End>
void share_part(const Weight& weight, const Operand<X>& x, int64_t from, int64_t to, Ahead then, End end) {
  auto finish = [&](int64_t row, int64_t panel, Vec a, Vec b) {
    const int64_t column = panel * PANEL;
    if (weight.scales) {
      a = a * load(weight.scales + column);
      b = b * load(weight.scales + column + 16);
    }
    if (weight.bias) {
      a = a + load(weight.bias + column);
      b = b + load(weight.bias + column + 16);
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
  const int64_t count = weight.count(), group = x.blocks.rows <= SUMS / 8 ? 4 : 2;
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
  inline void operator()(int64_t row, int64_t panel, Vec a, Vec b) const {
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
