// The rows of a linear layer's input.
#pragma once

#include <algorithm>
#include <memory>

#include "ahead.h"
#include "team.h"
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
  static inline __m512i weights(Ints w) { return w; }
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
  static inline Pair weights(Ints w) { return pair(w); }
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

// Rows cut into blocks of the same size, at most `limit`, the last one smaller.
struct Blocks {
  int64_t rows, most, count;
  explicit Blocks(int64_t rows, int64_t limit = MOST) : rows(rows) {
    const int64_t least = std::max<int64_t>((rows + limit - 1) / limit, 1);
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

// How rows lie in memory. For vectors they are interleaved within their block: cell s of row m lies at (s * block size + m),
// so that a step reads one short run of memory and never strides over pages. For tiles every 16 rows are cut into tiles, one
// after another. Rows that are rounded to 8 bits before they are multiplied (rounded.h) lie one after another, and behind
// them all what they are rounded to.
enum Layout { INTERLEAVED, TILED, ROUNDED };

// The rows a linear layer reads.
template <typename X>
struct Operand {
  using Number = typename Cell<X, X>::Number;

  Number* data;
  int64_t depth;
  Layout layout;
  Blocks blocks;

  Operand(Number* data, int64_t depth, int64_t rows, bool rounds = false)
      : data(data),
        depth(depth),
        layout(rounds ? ROUNDED : tiled<X>(rows, depth) ? TILED : INTERLEAVED),
        blocks(rows, rounds ? MOST / 2 : MOST) {}

  // Numbers that `rows` rows take, with what they are rounded to: a byte each, 8 for every 32.
  static int64_t size(int64_t rows, int64_t depth, bool rounds) {
    return (rows + TILE - 1) / TILE * TILE * depth * (rounds ? 2 : 1);
  }
  static Operand in_room(int which, int64_t depth, int64_t rows, bool rounds = false) {
    return {room<Number>(size(rows, depth, rounds), which), depth, rows, rounds};
  }

  const Number* block(int64_t b) const { return data + blocks.start(b) * depth; }

  // One row's pen: put() writes 16 numbers of the row, from column `at` (a multiple of 16) on.
  struct Pen {
    Number* row;
    Layout layout;
    int64_t stride;  // between cells of an interleaved row, in cells
    inline void put(int64_t at, Vec x) const {
      constexpr int64_t depth = Cell<X, X>::depth, cells = 16 / depth;
      if (layout == ROUNDED) return store(row + at, x);
      if (layout == TILED) return store(row + at / TILE_DEPTH * (TILE * TILE_DEPTH) + at % TILE_DEPTH, x);
      alignas(64) Number values[16];
      store(values, x);
      Number* to = row + at * stride;
      for (int64_t c = 0; c < cells; ++c) std::memcpy(to + c * stride * depth, values + c * depth, sizeof(Number) * depth);
    }
  };
  // All rows of a block at once, from where they lie one behind the other. Up to 15 words behind the block are written too:
  // blocks come in order, and BEHIND numbers are free behind the last.
  static constexpr int64_t BEHIND = 32;
  void fill(int64_t block, const Number* rows) const {
    constexpr int64_t cell = Cell<X, X>::depth * sizeof(Number);
    const int64_t first = blocks.start(block), count = blocks.size(block);
    if (layout == INTERLEAVED && cell == sizeof(uint32_t))
      return weave(count, depth * int64_t(sizeof(Number)) / cell, (const uint32_t*)rows, (uint32_t*)(data + first * depth));
    for (int64_t m = 0; m < count; ++m) {
      const Pen own = pen(first + m);
      for (int64_t at = 0; at < depth; at += 16) own.put(at, load(rows + m * depth + at));
    }
  }
  Pen pen(int64_t row) const {
    if (layout == ROUNDED) return {data + row * depth, ROUNDED, 0};
    if (layout == TILED) return {data + row / TILE * TILE * depth + row % TILE * TILE_DEPTH, TILED, 0};
    const int64_t b = blocks.of(row);
    return {data + blocks.start(b) * depth + (row - blocks.start(b)) * Cell<X, X>::depth, INTERLEAVED, blocks.size(b)};
  }
};

// Columns cut into parts, one for each thread that has any.
struct Parts {
  static constexpr int64_t whole = 32;  // of so many columns, what interleaved rows hold of them are whole lines of memory
  int64_t columns, width, count;
  Parts(int64_t columns, int64_t parts)
      : columns(columns), width((columns + parts * whole - 1) / (parts * whole) * whole), count((columns + width - 1) / width) {}
  int64_t start(int64_t part) const { return part * width; }
  int64_t stop(int64_t part) const { return std::min(columns, (part + 1) * width); }
};

}  // namespace dyno
