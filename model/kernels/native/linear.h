// y = x Wᵀ for weights laid out in panels, each 32 columns wide and as long as the rows of x are.
//
// A panel is read front to back once for every block of rows: with few rows a step is bound by reading weights,
// with many by multiplying, and neither pays for the other. A number of y is one chain of additions in the order of the
// columns of x (of groups of them in rounded.h), whatever rows stand beside it: the rows of a batch cannot change each
// other's results. Where the processor has matrix tiles, bfloat16 goes through them from MOST / 2 + 1 rows on, whose sums may
// round otherwise.
#pragma once

#include <atomic>

#include "lossless.h"
#include "rounded.h"

namespace dyno {

// The weights of one layer as Python hands them over. `scales` belongs to int8 weights, one for each column; `rounds`: the
// rows that they meet are rounded to 8 bits too; `lossless`: they are bfloat16 in 12 bits.
struct Weight {
  const void* panels;
  const float* scales;
  const float* bias;
  int64_t depth, columns, rounds;
  const Lossless* lossless;

  int64_t count() const { return (columns + PANEL - 1) / PANEL; }

  template <typename X>
  int64_t panel_bytes() const {
    return lossless ? depth * PANEL / UNIT * UNIT_BYTES : depth * PANEL * (scales ? 1 : int64_t(sizeof(X)));
  }
  // Whether these rows read each line of a panel once: one block of them, that does not go through it half by half.
  static bool once(const Blocks& blocks) { return blocks.count == 1 && blocks.most <= SUMS / 2; }
  // A panel as something to be asked for early, by whoever will meet it with these rows; nothing behind the last one.
  template <typename X>
  Ahead ahead(int64_t panel, const Blocks& blocks) const {
    if (panel >= count()) return {};
    return {static_cast<const char*>(panels) + panel * panel_bytes<X>(), panel_bytes<X>() / 64, once(blocks)};
  }
};

#ifdef DYNO_TILES
// One panel with 32 rows, or with 16 where `both` is false; sums (32, 32).
template <bool both>
__attribute__((noinline)) void matrix(const bf16* x, const bf16* w, int64_t depth, Ahead ahead, float* sums) {
  constexpr int64_t row = PANEL * 4;  // bytes of a pair of columns of x in the panel, and of 32 sums
  TILE_ZERO(0);
  TILE_ZERO(1);
  if (both) TILE_ZERO(2);
  if (both) TILE_ZERO(3);
  for (int64_t k = 0, due = 0; k < depth; k += TILE_DEPTH) {
    const bf16* pairs = w + k * PANEL;
    ahead.ask_due(due, depth / TILE_DEPTH);
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

// Panels [from, to) for all rows, by matrix tiles; `then` as for panels().
template <typename End>
void matrices(int64_t from, int64_t to, const Operand<bf16>& x, const bf16* w, End& end, Ahead then) {
  const TilesInUse in_use;
  const int64_t rows = x.blocks.rows, stride = x.depth * PANEL;
  alignas(64) float sums[2 * TILE * PANEL];
  for (int64_t p = from; p < to; ++p) {
    const bf16* own = w + p * stride;
    const Ahead next = p + 1 < to ? whole(own + stride, stride, false) : then;
    for (int64_t row = 0; row < rows; row += 2 * TILE) {
      const int64_t count = std::min(2 * TILE, rows - row);
      const Ahead ahead = next.share(row / (2 * TILE), (rows + 2 * TILE - 1) / (2 * TILE));
      (count > TILE ? matrix<true> : matrix<false>)(x.data + row * x.depth, own, x.depth, ahead, sums);
      for (int64_t m = 0; m < count; ++m) end(row + m, p, load(sums + m * PANEL), load(sums + m * PANEL + 16));
    }
  }
}
#endif

// The block of rows, at most M of them, with V times 16 columns; how many there are is known only now.
template <int V, int M, typename Rows>
inline void meet(const Rows& rows, int64_t block, const typename Rows::Kept* w, Ahead ahead, float* sums, int64_t pitch) {
  if constexpr (M > 0) {
    if (rows.blocks.size(block) == M)
      rows.template meet<M, V>(block, w, ahead, sums, pitch);
    else
      meet<V, M - 1>(rows, block, w, ahead, sums, pitch);
  }
}

// Panels [from, to) of weights w for all rows; `then` is the panel that this thread will need next, and is asked for early as each is
// for the one before. Of whole weights few rows take several panels at once instead, which the processor itself asks for in time.
template <typename Rows, typename End>
void panels(int64_t from, int64_t to, const Rows& rows, const typename Rows::Kept* w, int64_t stride, End& end, Ahead then = {}) {
  constexpr int64_t S = Rows::sums;
  const Blocks& blocks = rows.blocks;
  alignas(64) float sums[Rows::most * PANEL];
  auto finish = [&](int64_t row, int64_t count, int64_t panel, int64_t together) {
    const float* sum = sums;
    for (int64_t m = 0; m < count; ++m)
      for (int64_t i = 0; i < together; ++i, sum += PANEL) end(row + m, panel + i, load(sum), load(sum + 16));
  };
  int64_t p = from;
  if constexpr (constexpr int64_t N = Rows::at_once; N > 1)
    for (; blocks.rows <= S / (2 * N) && p + N <= to; p += N) {
      meet<2 * N, S / (2 * N)>(rows, 0, w + p * stride, {}, sums, N * PANEL);
      finish(0, blocks.rows, p, N);
    }
  for (; p < to; ++p) {
    const auto* own = w + p * stride;
    const Ahead next = p + 1 < to ? whole(own + stride, stride, Weight::once(blocks)) : then;
    for (int64_t b = 0; b < blocks.count; ++b) {
      const Ahead ahead = next.share(b, blocks.count);
      if (blocks.size(b) <= S / 2) {
        meet<2, S / 2>(rows, b, own, ahead, sums, PANEL);
      } else if constexpr (Rows::most > S / 2) {  // one half after the other; rows that cannot have no such blocks
        meet<1, Rows::most>(rows, b, own, ahead, sums, PANEL);
        meet<1, Rows::most>(rows, b, own + Rows::cell / 2, {}, sums + 16, PANEL);
      }
      finish(blocks.start(b), blocks.size(b), p, 1);
    }
  }
}

// The same for rows as they are, by matrix tiles where they lie in them.
template <typename X, typename W, typename End>
void whole_panels(int64_t from, int64_t to, const Operand<X>& x, const W* w, End& end, Ahead then = {}) {
#ifdef DYNO_TILES
  if constexpr (sizeof(X) == 2 && sizeof(W) == 2)
    if (x.layout == TILED) return matrices(from, to, x, w, end, then);
#endif
  panels(from, to, WholeRows<X, W>{x}, w, x.depth * PANEL, end, then);
}

// The first `count` panels for all rows, written as they are to rows `pitch` apart.
template <typename X>
void products(int64_t count, const Operand<X>& x, const X* w, float* to, int64_t pitch) {
  if (x.layout == TILED || MOST > SUMS / 2) {
    auto put = [&](int64_t row, int64_t panel, Vec a, Vec b) {
      store(to + row * pitch + panel * PANEL, a);
      store(to + row * pitch + panel * PANEL + 16, b);
    };
    return whole_panels(0, count, x, w, put);
  }
  const WholeRows<X, X> rows{x};
  for (int64_t p = 0; p < count; ++p)
    for (int64_t b = 0; b < x.blocks.count; ++b)
      meet<2, SUMS / 2>(rows, b, w + p * x.depth * PANEL, {}, to + x.blocks.start(b) * pitch + p * PANEL, pitch);
}

constexpr int WIDENED = 7;  // the room of a panel that is kept in fewer bits, as what it stands for

// Weights that are kept in fewer bits, for many rows: a panel is made what it stands for once, by widen(panel, to), and then
// read by every block of rows.
template <typename X, typename Widen, typename End>
void widened(const Weight& weight, int64_t from, int64_t to, const Operand<X>& x, Widen widen, End& end, Ahead then) {
  X* wide = room<X>(x.depth * PANEL, WIDENED);
  for (int64_t p = from; p < to; ++p) {
    widen(p, wide);
    auto shifted = [&](int64_t row, int64_t, Vec a, Vec b) { end(row, p, a, b); };
    whole_panels(0, 1, x, wide, shifted, p + 1 < to ? weight.ahead<X>(p + 1, x.blocks) : then);
  }
}

// int8 weights.
template <typename X, typename End>
void int8_panels(const Weight& weight, int64_t from, int64_t to, const Operand<X>& x, End& end, Ahead then) {
  const auto* kept = static_cast<const int8_t*>(weight.panels);
  if (x.blocks.count == 1 && x.layout != TILED) return whole_panels(from, to, x, kept, end, then);
  const int64_t stride = x.depth * PANEL;
  const auto widen = [=](int64_t p, X* wide) {
    for (int64_t i = 0; i < stride; i += 16) store(wide + i, load(kept + p * stride + i));
  };
  widened(weight, from, to, x, widen, end, then);
}

// bfloat16 in 12 bits.
template <typename End>
void lossless_panels(const Weight& weight, int64_t from, int64_t to, const Operand<bf16>& x, End& end, Ahead then) {
  const auto* kept = static_cast<const uint8_t*>(weight.panels);
  const Lossless& layer = *weight.lossless;
  const int64_t bytes = weight.panel_bytes<bf16>();
  if (x.blocks.most <= LosslessRows::most && x.layout != TILED)
    return panels(from, to, LosslessRows{x, layer, kept}, kept, bytes, end, then);
  const auto widen = [&](int64_t p, bf16* wide) { unpack({layer, kept, p, bytes}, layer.upper, bytes / UNIT_BYTES, wide); };
  widened(weight, from, to, x, widen, end, then);
}

// Panels [from, to) of one linear layer. `end` gets, for a row and a panel, both halves of the result as they leave the
// sums, scaled and with the bias.
template <typename X, typename End>
void share_part(const Weight& weight, const Operand<X>& x, int64_t from, int64_t to, Ahead then, End end) {
  [[maybe_unused]] const TilesInUse in_use(x.layout == TILED);
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
  if constexpr (sizeof(X) == sizeof(bf16))
    if (weight.lossless) return lossless_panels(weight, from, to, x, finish, then);
  if (weight.rounds)
    panels(from, to, RoundedRows<X>{x}, static_cast<const uint8_t*>(weight.panels), x.depth * PANEL, finish, then);
  else if (weight.scales)
    int8_panels(weight, from, to, x, finish, then);
  else
    whole_panels(from, to, x, static_cast<const X*>(weight.panels), finish, then);
}

// Called by all threads of a team when the rows of an operand are written: it can be read then. What is rounded to 8 bits is
// rounded here, groups first: what a block's rows are rounded to is interleaved.
template <typename X>
void complete(const Operand<X>& rows, const Member& me) {
  me.meet();
  if (rows.layout != ROUNDED) return;
  const RoundedRows<X> rounded{rows};
  me.part(rounded.groups() * rows.blocks.rows, [&](int64_t task) { rounded.round(task % rows.blocks.rows, task / rows.blocks.rows); });
  me.meet();
}

// Has write(row, from, to) called for every row and all columns, [from, to) at a time, by the threads of a team, all of which
// come. Rows of a block that are interleaved share lines of memory, which threads would take from each other with every number
// that they write: such a block is one thread's, or each thread writes columns of its own.
template <typename X, typename Write>
void write_rows(const Operand<X>& rows, const Member& me, Write write) {
  const Blocks& blocks = rows.blocks;
  const bool shared = rows.layout == INTERLEAVED;
  const int64_t count = shared ? blocks.count : blocks.rows;
  const Parts parts(rows.depth, shared && count % me.count && count < 4 * me.count ? me.count : 1);
  me.part(count * parts.count, [&](int64_t task) {
    const int64_t block = task / parts.count, part = task % parts.count;
    const int64_t first = shared ? blocks.start(block) : block, own = shared ? blocks.size(block) : 1;
    for (int64_t row = first; row < first + own; ++row) write(row, parts.start(part), parts.stop(part));
  });
  complete(rows, me);
}

// A thread's share of one linear layer: it takes turns with the others until no panel is left. All threads of a team come.
template <typename X, typename End>
void share(const Weight& weight, const Operand<X>& x, std::atomic<int64_t>& turn, const Member& me, End end) {
  const int64_t count = weight.count(), group = x.blocks.rows <= SUMS / 8 ? AT_ONCE : 2;  // fewer would be too short a turn
  const int64_t chunk = std::max<int64_t>(count / (me.count * 8) / group, 1) * group;
  const auto take = [&] { return turn.fetch_add(chunk, std::memory_order_relaxed); };
  for (int64_t from = take(), next; from < count; from = next) {  // the next part is taken early, to be fetched
    next = take();
    share_part<X>(weight, x, from, std::min(from + chunk, count), weight.ahead<X>(next, x.blocks), end);
  }
}

// Linear layers of one shape, each of which meets rows of its own, as experts and heads do. Many tells them: count() of them,
// weight(i), rows(i); of all their rows total(), and row(i) with the layer's rows.
//
// The same as complete() for the rows of all.
template <typename X, typename Many>
void complete_all(const Many& many, const Member& me) {
  me.meet();
  if (!many.count() || !many.weight(0).rounds) return;
  const int64_t total = many.total();
  me.part(many.weight(0).depth / GROUP * total, [&](int64_t task) {
    const auto [rows, row] = many.row(task % total);
    RoundedRows<X>{rows}.round(row, task / total);
  });
  me.meet();
}

// A thread's share of all layers; `end` makes the ending for a layer. All threads of a team come.
template <typename X, typename Many, typename End>
void share_all(const Many& many, std::atomic<int64_t>& turn, const Member& me, End end) {
  if (!many.count()) return;
  const int64_t count = many.weight(0).count();
  const int64_t chunk = std::max<int64_t>(count * many.count() / (me.count * 8) / 4, 1) * 4;
  const int64_t chunks = (count + chunk - 1) / chunk, tasks = chunks * many.count();
  const auto take = [&] { return turn.fetch_add(1, std::memory_order_relaxed); };
  const auto ahead = [&](int64_t task) {
    if (task >= tasks) return Ahead{};
    const int64_t layer = task / chunks;
    return many.weight(layer).template ahead<X>(task % chunks * chunk, many.rows(layer).blocks);
  };
  for (int64_t task = take(), next; task < tasks; task = next) {
    next = take();
    const int64_t layer = task / chunks, from = task % chunks * chunk;
    share_part<X>(many.weight(layer), many.rows(layer), from, std::min(from + chunk, count), ahead(next), end(layer));
  }
}

// An ending that takes results 16 columns at a time: each(row, column, 16 numbers). The padding of the last panel is left out.
template <typename Each>
auto by_sixteen(int64_t columns, Each each) {
  return [=](int64_t row, int64_t panel, Vec a, Vec b) {
    const int64_t at = panel * PANEL;
    each(row, at, a);
    if (at + 16 < columns) each(row, at + 16, b);
  };
}

// Copies columns [from, to) of a row into the layout of a linear layer's operand.
template <typename X, typename Pen>
inline void take(const X* x, int64_t from, int64_t to, const Pen& pen) {
  for (int64_t i = from; i < to; i += 16) pen.put(i, load(x + i));
}

// Writes columns [0, columns) of rows of `out`, which are `pitch` apart; the padding of the last panel is left out.
template <typename Y>
struct Place {
  Y* out;
  int64_t columns, pitch = columns;
  inline void operator()(int64_t row, int64_t panel, Vec a, Vec b) const {
    const int64_t at = panel * PANEL;
    Y* to = out + row * pitch + at;
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
