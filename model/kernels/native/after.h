// What comes after attention in a block, in one parallel region: projection, residual, norm and feed-forward.
#pragma once

#include "latent.h"

namespace dyno {

struct FeedForward {
  Norm before;
  Weight up, down;
  int64_t activation, gated, hidden;  // gated: panels of `up` hold 16 gates and then their 16 values
};

template <typename X>
struct Gate {  // activate(gate) * value, 16 numbers a panel
  const Operand<X>& hidden;
  int64_t activation;
  inline void operator()(int64_t row, int64_t panel, Vec gate, Vec value) const {
    hidden.pen(row).put(panel * 16, activate(activation, gate) * value);
  }
};

template <typename X>
struct Activate {
  const Operand<X>& hidden;
  int64_t activation;
  inline void operator()(int64_t row, int64_t panel, Vec a, Vec b) const {
    const auto pen = hidden.pen(row);
    const int64_t at = panel * PANEL;
    pen.put(at, activate(activation, a));
    if (at + 16 < hidden.depth) pen.put(at + 16, activate(activation, b));
  }
};

template <typename X>
struct Residual {  // out = x + result
  const X* x;
  X* out;
  int64_t columns;
  inline void operator()(int64_t row, int64_t panel, Vec a, Vec b) const {
    const int64_t at = row * columns + panel * PANEL;
    store(out + at, load(x + at) + a);
    if (panel * PANEL + 16 < columns) store(out + at + 16, load(x + at + 16) + b);
  }
};

// attended (rows, heads * dim), x (rows, width) → out = x + projection, then + feed-forward of its norm. Without a
// feed-forward `normed` (rows, width) gets the norm of out instead. latent: what is attended are latents; null: values.
template <typename X>
void leave(const Weight& projection, const Latent* latent, const FeedForward* ff, const Norm* norm, int64_t rows, const X* x,
           const X* attended, X* out, X* normed, int threads) {
  const int64_t inner = projection.depth, width = projection.columns;
  const auto taken = Operand<X>::in_room(0, inner, rows, projection.rounds);
  const auto seen = Operand<X>::in_room(1, width, rows, ff && ff->up.rounds);
  const auto hidden = Operand<X>::in_room(2, ff ? ff->hidden : 0, rows, ff && ff->down.rounds);
  const Heads<X> latents(latent ? latent->values : &projection, latent ? latent->heads : 0, rows, 3);
  std::atomic<int64_t> turns[4] = {};
  together(threads, [&](const Member& me) {
    if (latent)
      raise(*latent, latents, attended, taken, turns[3], me);
    else
      write_rows(taken, me, [&](int64_t row, int64_t from, int64_t to) { take(attended + row * inner, from, to, taken.pen(row)); });
    share(projection, taken, turns[0], me, Residual<X>{x, out, width});
    me.meet();
    if (!ff) {
      me.part(rows, [&](int64_t row) {
        normalise(*norm, out + row * width, width, 0, width, [&](int64_t at, Vec y) { store(normed + row * width + at, y); });
      });
    } else {
      write_rows(seen, me, [&](int64_t row, int64_t from, int64_t to) {
        const auto pen = seen.pen(row);
        normalise(ff->before, out + row * width, width, from, to, [&](int64_t at, Vec y) { pen.put(at, y); });
      });
      if (ff->gated)
        share(ff->up, seen, turns[1], me, Gate<X>{hidden, ff->activation});
      else
        share(ff->up, seen, turns[1], me, Activate<X>{hidden, ff->activation});
      me.meet();
      share(ff->down, hidden, turns[2], me, Residual<X>{out, out, width});
    }
  });
}

}  // namespace dyno
