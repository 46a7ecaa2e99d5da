// What comes after attention in a block, in one parallel region: projection, residual, norm and feed-forward.
#pragma once

#include "latent.h"

namespace dyno {

struct FeedForward {
  Weight up, down;
  Activating activation;
  int64_t gated, hidden;  // gated: panels of `up` hold 16 gates and then their 16 values
};

// One by itself: beside experts, or in a block that is not fused.
struct FeedAlone {
  FeedForward layers;
  const Weight* gate;          // of one column, by the logistic of which the result is multiplied; null: none
  const Norm *before, *after;  // null: none
};

// How the result of a branch joins what the block carries on: x + scale * norm(result), or norm(x + scale * result).
struct Joining {
  const Norm* norm;  // null: none
  int64_t of_sum;
  float scale;

  // One row; `out` may be x.
  template <typename X>
  void apply(const X* x, const X* result, X* out, int64_t width) const {
    const Vec scaled = all(scale);
    const auto put = [&](int64_t at, Vec y) { store(out + at, fma(scaled, y, load(x + at))); };
    normalise(of_sum ? nullptr : norm, result, width, 0, width, put);
    if (of_sum && norm) normalise_in_place(*norm, out, width);
  }
};

struct After {
  Weight projection;       // without panels: of a block that attends to nothing
  const Latent* latent;    // what is attended are latents; null: values
  const OutputGate* gate;  // null: none
  Joining attended, fed;
  const Norm* before;       // of the second branch; null: none
  const FeedForward* feed;  // null: a mixture, or none
  int64_t parallel;         // the second branch sees what the block began with
  int64_t ends;             // there is no second branch
};

template <typename X>
struct Gate {  // 16 numbers a panel
  const Operand<X>& hidden;
  Activating activation;
  inline void operator()(int64_t row, int64_t panel, Vec gate, Vec value) const {
    hidden.pen(row).put(panel * 16, activation(gate, value));
  }
};

template <typename X>
struct Activate {
  const Operand<X>& hidden;
  Activating activation;
  inline void operator()(int64_t row, int64_t panel, Vec a, Vec b) const {
    const auto pen = hidden.pen(row);
    const int64_t at = panel * PANEL;
    pen.put(at, activation(a));
    if (at + 16 < hidden.depth) pen.put(at + 16, activation(b));
  }
};

// A thread's share of the upper layer of a feed-forward; all threads of a team come.
template <typename X>
void share_up(const FeedForward& ff, const Operand<X>& seen, const Operand<X>& hidden, std::atomic<int64_t>& turn,
              const Member& me) {
  if (ff.gated)
    share(ff.up, seen, turn, me, Gate<X>{hidden, ff.activation});
  else
    share(ff.up, seen, turn, me, Activate<X>{hidden, ff.activation});
  complete(hidden, me);
}

// A thread's share of a layer whose results join x (rows, columns); `aside` has room for them. All threads of a team come.
template <typename X>
void share_joining(const Weight& weight, const Operand<X>& rows, std::atomic<int64_t>& turn, const Member& me, const Joining& how,
                   const X* x, X* out, X* aside) {
  const int64_t width = weight.columns;
  if (!how.norm) {
    const Vec scale = all(how.scale);
    return share(weight, rows, turn, me, by_sixteen(width, [=](int64_t row, int64_t at, Vec y) {
      store(out + row * width + at, fma(scale, y, load(x + row * width + at)));
    }));
  }
  share(weight, rows, turn, me, Place<X>{aside, width});
  me.meet();
  me.part(rows.blocks.rows, [&](int64_t row) { how.apply(x + row * width, aside + row * width, out + row * width, width); });
}

// attended (rows, heads * dim), gates of rows if any, x (rows, width) → out = x, joined by the projection and then by the
// feed-forward, as far as there are these. Before a mixture `normed` (rows, width) gets what it sees. `out` may be x.
template <typename X>
void leave(const After& a, int64_t rows, const X* x, const X* attended, const X* gates, X* out, X* normed, int threads) {
  const Weight& projection = a.projection;
  const FeedForward* ff = a.feed;
  const int64_t inner = projection.depth, width = projection.columns;
  const bool attends = projection.panels;
  const auto taken = Operand<X>::in_room(0, inner, rows, projection.rounds);
  const auto seen = Operand<X>::in_room(1, width, rows, ff && ff->up.rounds);
  const auto hidden = Operand<X>::in_room(2, ff ? ff->hidden : 0, rows, ff && ff->down.rounds);
  const Heads<X> latents(a.latent ? a.latent->values : &projection, a.latent ? a.latent->heads : 0, rows, 3);
  X* aside = room<X>(a.attended.norm || a.fed.norm ? rows * width : 0, 4);
  std::atomic<int64_t> turns[4] = {};
  together(threads, [&](const Member& me) {
    const auto see = [&](const X* from) {
      if (ff) return write_normed(a.before, from, seen, me);
      me.part(rows, [&](int64_t row) {
        const auto put = [&](int64_t at, Vec y) { store(normed + row * width + at, y); };
        normalise(a.before, from + row * width, width, 0, width, put);
      });
      me.meet();
    };
    const auto put = [&](int64_t row, int64_t at, Vec y) {
      taken.pen(row).put(at, a.gate ? y * a.gate->open(gates + row * a.gate->weight.columns, at) : y);
    };
    if (!attends) {
    } else if (a.latent) {
      raise(*a.latent, latents, attended, turns[3], me, put);
      complete(taken, me);
    } else if (a.gate) {
      write_rows(taken, me, [&](int64_t row, int64_t from, int64_t to) {
        for (int64_t at = from; at < to; at += 16) put(row, at, load(attended + row * inner + at));
      });
    } else {
      write_normed<X>(nullptr, attended, taken, me);
    }
    if (a.parallel) see(x);
    if (attends) share_joining(projection, taken, turns[0], me, a.attended, x, out, aside), me.meet();
    if (a.ends) return;
    const X* joined = attends ? out : x;
    if (!a.parallel) see(joined);
    if (!ff) return;
    share_up(*ff, seen, hidden, turns[1], me);
    share_joining(ff->down, hidden, turns[2], me, a.fed, joined, out, aside);
  });
}

// x (rows, width) → out (rows, width)
template <typename X>
void feed(const FeedAlone& alone, int64_t rows, const X* x, X* out, int threads) {
  const FeedForward& ff = alone.layers;
  const Weight* gate = alone.gate;
  const int64_t width = ff.down.columns;
  const auto seen = Operand<X>::in_room(0, ff.up.depth, rows, ff.up.rounds);
  const auto hidden = Operand<X>::in_room(1, ff.hidden, rows, ff.down.rounds);
  float* gates = room<float>(rows, 2);
  std::atomic<int64_t> turns[3] = {};
  together(threads, [&](const Member& me) {
    write_normed(alone.before, x, seen, me);
    if (gate) share(*gate, seen, turns[0], me, Place<float>{gates, 1});
    share_up(ff, seen, hidden, turns[1], me);
    share(ff.down, hidden, turns[2], me, by_sixteen(width, [=](int64_t row, int64_t at, Vec y) {
      store(out + row * width + at, gate ? y * logistic(all(gates[row])) : y);
    }));
    if (!alone.after) return;
    me.meet();
    me.part(rows, [&](int64_t row) { normalise_in_place(*alone.after, out + row * width, width); });
  });
}

}  // namespace dyno
