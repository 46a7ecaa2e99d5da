// bfloat16 weights in 12 bits, from which all 16 come back.
//
// A bfloat16's upper byte is its sign and seven bits of its exponent, and trained or drawn weights of one layer have little more
// than sixteen of them: such a byte is kept as its number among sixteen. Units with other numbers in them, one or two in a
// hundred, are kept as they are beside the others. What is multiplied, and in which order, is what it would be without all this.
#pragma once

#include "tile.h"

namespace dyno {

constexpr int64_t UNIT = 128, UNIT_BYTES = 192;  // numbers of two steps along a panel: lower bytes of each, codes of both

// What belongs to a layer's panels of units, as Python hands it over: the sixteen upper bytes; and of units that are kept
// whole, panel by panel from starts[panel] on, which of the panel's they are, in order, and their numbers.
struct Lossless {
  const uint8_t* upper;
  const int64_t* starts;
  const int32_t* odd;
  const bf16* numbers;
};

// A step's 64 numbers as bytes, in the order in which words of such bytes are put together again.
inline void split(const bf16* step, uint8_t* lower, uint8_t* upper) {
  for (int64_t eight = 0; eight < 8; ++eight, lower += 8, upper += 8) {
    const bf16* own = step + eight % 2 * 32 + eight / 2 * 8;
    for (int64_t i = 0; i < 8; ++i) lower[i] = uint8_t(own[i]), upper[i] = uint8_t(own[i] >> 8);
  }
}

// Where each of 64 bytes is among `sixteen`; 16 for one that is not.
inline void codes_of(const uint8_t* bytes, const uint8_t* sixteen, uint8_t* codes) {
  std::fill_n(codes, 64, 16);
  for (uint8_t code = 0; code < 16; ++code)
    for (int64_t i = 0; i < 64; ++i) codes[i] = bytes[i] == sixteen[code] ? code : codes[i];
}

// numbers (units, UNIT) → to (units, UNIT_BYTES); odd[unit]: whether it has a number whose upper byte is not among the sixteen.
inline void pack(int64_t units, const bf16* numbers, const uint8_t* upper, uint8_t* to, uint8_t* odd, int threads) {
  const auto one = [&](int64_t u) {
    const bf16* own = numbers + u * UNIT;
    uint8_t *kept = to + u * UNIT_BYTES, bytes[64], first[64], second[64], none = 0;
    split(own, kept, bytes);
    codes_of(bytes, upper, first);
    split(own + UNIT / 2, kept + UNIT / 2, bytes);
    codes_of(bytes, upper, second);
    for (int64_t i = 0; i < 64; ++i) none |= first[i] | second[i], kept[UNIT + i] = uint8_t((first[i] & 15) | second[i] << 4);
    odd[u] = none >> 4;
  };
  together(threads, [&](const Member& me) { me.part(units, one); });
}

// A unit's numbers as they were: 32 columns, in halves, of either step.
struct Unit {
  Ints halves[2][2];

  static Unit unpacked(const uint8_t* p, Ints upper) {
    const Ints codes = ints(p + UNIT);
    const auto words = [](Ints low, Ints high, Ints* to) { to[0] = first_words(low, high), to[1] = other_words(low, high); };
    Unit unit;
    words(ints(p), look_up(upper, low_halves(codes)), unit.halves[0]);
    words(ints(p + UNIT / 2), look_up(upper, high_halves(codes)), unit.halves[1]);
    return unit;
  }
  void put(bf16* to) const {
    for (int i = 0; i < 4; ++i) store(to + 32 * i, halves[i / 2][i % 2]);
  }
  static Unit whole(const bf16* p) { return {{{ints(p), ints(p + 32)}, {ints(p + 64), ints(p + 96)}}}; }
};

// One panel, read front to back.
struct Panel {
  const uint8_t* kept;
  const int32_t *odd, *end;
  const bf16* numbers;

  Panel(const Lossless& layer, const uint8_t* panels, int64_t panel, int64_t bytes)
      : kept(panels + panel * bytes),
        odd(layer.odd + layer.starts[panel]),
        end(layer.odd + layer.starts[panel + 1]),
        numbers(layer.numbers + layer.starts[panel] * UNIT) {
    ask_whole(0), ask_whole(1);
  }

  // The next unit that is kept whole, `none` behind the last.
  int64_t next(int64_t none) const { return odd < end ? *odd : none; }
  // Ask early for the i-th of the units to come that are kept whole: they lie apart from the others.
  void ask_whole(int64_t i) const {
    for (int64_t at = 0; at < UNIT; at += 32) _mm_prefetch((const char*)(numbers + i * UNIT + at), _MM_HINT_T0);
  }
  Unit unit(int64_t u, Ints upper) const { return Unit::unpacked(kept + u * UNIT_BYTES, upper); }
  // The next unit that is kept whole; there is one.
  Unit take() {
    ask_whole(2);
    ++odd, numbers += UNIT;
    return Unit::whole(numbers - UNIT);
  }
};

// M rows with a panel, as tile() in tile.h.
template <int M>
__attribute__((noinline)) void lossless_tile(const Cell<bf16, bf16>::Number* x, Panel panel, Ints upper, int64_t units, Ahead ahead,
                                             float* sums, int64_t pitch) {
  using C = Cell<bf16, bf16>;
  Vec sum[M][2];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) sum[m][0] = sum[m][1] = zero();
  const auto add = [&](int64_t u, const Unit& unit) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      const auto first = C::weights(unit.halves[s][0]), other = C::weights(unit.halves[s][1]);
#pragma GCC unroll 12
      for (int m = 0; m < M; ++m) {
        const auto row = C::spread(x + ((2 * u + s) * M + m) * C::depth);
        sum[m][0] = C::add(sum[m][0], row, first);
        sum[m][1] = C::add(sum[m][1], row, other);
      }
    }
  };
  for (int64_t u = 0, due = 0; u < units; ++u) {
    for (const int64_t stop = panel.next(units); u < stop; ++u) {
      ahead.ask_due(due, units);
      add(u, panel.unit(u, upper));
    }
    if (u < units) add(u, panel.take());
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) store(sums + m * pitch, sum[m][0]), store(sums + m * pitch + 16, sum[m][1]);
}

// Rows as they are, for panels(). Every block of them unpacks a panel anew: to write it down for the others takes longer.
struct LosslessRows {
  using Kept = uint8_t;
  static constexpr int64_t sums = SUMS, most = SUMS / 2, at_once = 1;
  const Operand<bf16>& x;
  const Lossless& layer;
  const uint8_t* all;  // the panels
  const Blocks& blocks = x.blocks;

  template <int M, int V>
  void meet(int64_t block, const uint8_t* w, Ahead ahead, float* to, int64_t pitch) const {
    static_assert(V == 2);
    const int64_t units = x.depth * PANEL / UNIT, bytes = units * UNIT_BYTES;
    lossless_tile<M>(x.block(block), Panel(layer, all, (w - all) / bytes, bytes), sixteen(layer.upper), units, ahead, to, pitch);
  }
};

// A panel as bfloat16 again.
inline void unpack(Panel panel, const uint8_t* upper, int64_t units, bf16* to) {
  const Ints bytes = sixteen(upper);
  for (int64_t u = 0; u < units; ++u) panel.unit(u, bytes).put(to + u * UNIT);
  for (; panel.odd < panel.end; ++panel.odd, panel.numbers += UNIT)
    std::memcpy(to + *panel.odd * UNIT, panel.numbers, UNIT * sizeof(bf16));
}

}  // namespace dyno
