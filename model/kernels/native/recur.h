// Recurrent mixers: the projection into one, and what is between that and the one that leads back, convolution, states, norm and
// gate (model/kernels/recurrence.py). A token's numbers come out the same whatever else is in the step.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "before.h"

namespace dyno {

struct Mixing {
  int64_t heads, keys, key_dim, value_dim;
  int64_t width;                       // tokens that the convolution looks at; 0: there is none
  int64_t delta, discrete;             // rules (model/values/recurrent.py)
  int64_t steps;                       // of a token: heads, heads * key_dim, or 0 where the decay is fixed
  int64_t gate, gate_first;            // 0: none, 1: SiLU, 2: logistic; before the norm
  int64_t parts;                       // of what is read that are normed by themselves; 0: nothing is
  float eps, unit_eps;                 // of the norm; under the root of a key's length
  float bound;                         // of what a decay takes, as a logarithm; 0: none
  const float *taps, *tap_bias;        // (width, mixed); null: none
  const float *rates, *step_bias;      // of each step; where the decay is fixed, the share that each head keeps
  const float *skip, *norm;            // of each head, of all that is read; null: none

  int64_t queries() const { return keys * key_dim; }
  int64_t inner() const { return heads * value_dim; }
  int64_t mixed() const { return 2 * queries() + inner(); }
  int64_t state() const { return heads * key_dim * value_dim; }
  // Room for one token: its queries, keys and values, what it keeps, its steps, its strengths, and what is read for it.
  int64_t kept_at() const { return mixed(); }
  int64_t steps_at() const { return kept_at() + padded(steps); }
  int64_t strength_at() const { return steps_at() + padded(steps); }
  int64_t read_at() const { return strength_at() + padded(delta ? heads : 0); }
  int64_t room() const { return read_at() + inner(); }
  static int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }
};

// What tokens bring (rows that lie `stride` apart), each part of a row where the projection left it.
struct Fed {
  const void *mixed, *gate, *decay, *strength;
  int64_t mixed_stride, gate_stride, decay_stride, strength_stride;
};

// What comes before: a norm, one projection for all that tokens bring, and where gate or decay have a rank, one more for each.
struct Recurrent {
  const Norm* before;  // null: none
  Weight into;
  const Weight *gate_up, *decay_up;             // null: none
  int64_t gate_at, decay_at, strength_at;       // columns of `into`; queries, keys and values are the first
  Mixing mixing;

  int64_t gate_up_at() const { return Mixing::padded(into.columns); }
  int64_t decay_up_at() const { return gate_up_at() + (gate_up ? gate_up->columns : 0); }
  int64_t placed() const { return decay_up_at() + (decay_up ? Mixing::padded(decay_up->columns) : 0); }  // numbers of a row

  template <typename X>
  Fed fed(const X* rows) const {
    const int64_t pitch = placed();
    return {rows, rows + (gate_up ? gate_up_at() : gate_at), rows + (decay_up ? decay_up_at() : decay_at), rows + strength_at,
            pitch, pitch, pitch, pitch};
  }
};

// A thread's share of a projection of the columns `at` of rows that are `pitch` apart, to columns `to`. All threads of a team come.
template <typename X>
void share_up(const Weight& up, const Operand<X>& low, X* rows, int64_t at, int64_t to, int64_t pitch, std::atomic<int64_t>& turn,
              const Member& me) {
  write_rows(low, me, [&](int64_t row, int64_t from, int64_t stop) { take(rows + row * pitch + at, from, stop, low.pen(row)); });
  share(up, low, turn, me, Place<X>{rows + to, up.columns, pitch});
}

// x (rows, width) → placed (rows, Recurrent::placed)
template <typename X>
void enter(const Recurrent& r, int64_t rows, const X* x, X* placed, int threads) {
  const int64_t pitch = r.placed();
  const auto normed = Operand<X>::in_room(0, r.into.depth, rows, r.into.rounds);
  const auto low_gate = Operand<X>::in_room(1, r.gate_up ? r.gate_up->depth : 0, rows, r.gate_up && r.gate_up->rounds);
  const auto low_decay = Operand<X>::in_room(2, r.decay_up ? r.decay_up->depth : 0, rows, r.decay_up && r.decay_up->rounds);
  std::atomic<int64_t> turns[3] = {};
  together(threads, [&](const Member& me) {
    write_normed(r.before, x, normed, me);
    share(r.into, normed, turns[0], me, Place<X>{placed, r.into.columns, pitch});
    if (!r.gate_up && !r.decay_up) return;
    me.meet();
    if (r.gate_up) share_up(*r.gate_up, low_gate, placed, r.gate_at, r.gate_up_at(), pitch, turns[1], me);
    if (r.decay_up) share_up(*r.decay_up, low_decay, placed, r.decay_at, r.decay_up_at(), pitch, turns[2], me);
  });
}

// How rows move on (model/states.py): row r has tokens [starts[r], starts[r + 1]), begins with the state in slot before[r], and
// that after a token goes to slot after[token], if that is not 0. Slots of `numbers`: states, then what the convolution
// looks back on.
struct Moves {
  int64_t rows;
  const int64_t *starts, *before, *after;
  float* slots;
  int64_t numbers;

  int64_t row_of(int64_t token) const { return std::upper_bound(starts, starts + rows, token) - starts - 1; }
  float* slot(int64_t number) const { return slots + number * numbers; }
};

// ln(1 + e^x), to 3e-7: max(x, 0) + 2 artanh(t / (2 + t)) with t = e^-|x|
inline Vec softplus(Vec x) {
  const Vec t = exponential(zero() - size_of(x)), s = t / (t + all(2.0f)), square = s * s;
  Vec p = all(1.0f / 13);
  for (const float c : {1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f}) p = fma(p, square, all(c));
  return fma(all(2.0f) * s, p, keep(not_below(x, zero()), x));
}

// each(at, 16 of `count` numbers), zeros behind them.
template <typename X, typename Each>
inline void by_sixteen(const X* x, int64_t count, Each each) {
  int64_t at = 0;
  for (; at + 16 <= count; at += 16) each(at, load(x + at));
  if (at == count) return;
  float rest[16] = {};
  for (int64_t i = at; i < count; ++i) rest[i - at] = widen(x[i]);
  each(at, load(rest));
}

inline float squared(const float* x, int64_t count) {
  Vec sum = zero();
  for (int64_t i = 0; i < count; i += 16) sum = fma(load(x + i), load(x + i), sum);
  return sum_of(sum);
}

template <typename X>
struct Recurring {
  const Mixing& m;
  const Fed& fed;
  const Moves& moves;
  float* rooms;  // (tokens, room)
  X* out;        // (tokens, inner)

  float* room(int64_t token) const { return rooms + token * m.room(); }

  // A token's queries, keys and values, what it keeps, and how strongly it enters.
  void prepare(int64_t token) const {
    float* to = room(token);
    convolve(token, to);
    for (int64_t head = 0; m.delta && head < 2 * m.keys; ++head) {
      float* own = to + head * m.key_dim;
      const float root = head < m.keys ? std::sqrt(float(m.key_dim)) : 1.0f;
      const Vec scale = all(1.0f / (std::sqrt(squared(own, m.key_dim) + m.unit_eps) * root));
      for (int64_t i = 0; i < m.key_dim; i += 16) store(own + i, load(own + i) * scale);
    }
    const X *decay = (const X*)fed.decay + token * fed.decay_stride, *strength = (const X*)fed.strength + token * fed.strength_stride;
    by_sixteen(decay, m.steps, [&](int64_t at, Vec x) {
      const Vec drive = x + load(m.step_bias + at), rate = load(m.rates + at), step = softplus(drive);
      store(to + m.steps_at() + at, step);
      const Vec lost = m.bound > 0 ? all(m.bound) * logistic(rate * drive) : rate * step;
      store(to + m.kept_at() + at, exponential(zero() - lost));
    });
    by_sixteen(strength, m.delta ? m.heads : 0, [&](int64_t at, Vec x) { store(to + m.strength_at() + at, logistic(x)); });
  }

  void convolve(int64_t token, float* to) const {
    const X* own = (const X*)fed.mixed + token * fed.mixed_stride;
    const int64_t row = moves.row_of(token), before = token - moves.starts[row];
    const float* past = moves.slot(moves.before[row]) + m.state();
    for (int64_t i = 0; i < m.mixed(); i += 16) {
      Vec y = m.tap_bias ? load(m.tap_bias + i) : zero();
      if (!m.width) y = load(own + i);
      for (int64_t tap = 0; tap < m.width; ++tap) {
        const int64_t back = m.width - 1 - tap;
        const Vec x = back <= before ? load(own - back * fed.mixed_stride + i) : load(past + (tap + before) * m.mixed() + i);
        y = fma(load(m.taps + tap * m.mixed() + i), x, y);
      }
      store(to + i, y * logistic(y));
    }
  }

  // One head of one row, through all of the row's tokens.
  void carry(int64_t row, int64_t head) const {
    const int64_t size = m.key_dim * m.value_dim, start = moves.starts[row], stop = moves.starts[row + 1];
    thread_local std::vector<float> here, kept;
    here.resize(size), kept.resize(2 * m.key_dim);
    const float* from = moves.slot(moves.before[row]) + head * size;
    for (int64_t token = start; token < stop; ++token) {
      float* kept_there = moves.after[token] ? moves.slot(moves.after[token]) + head * size : nullptr;
      float* to = token + 1 == stop && kept_there ? kept_there : here.data();
      keep_of(token, head, kept.data());
      int64_t at = 0;
      for (; at + 64 <= m.value_dim; at += 64) step<4>(token, head, at, kept.data(), from, to);
      for (; at < m.value_dim; at += 16) step<1>(token, head, at, kept.data(), from, to);
      if (kept_there && to != kept_there) std::copy_n(to, size, kept_there);
      from = to;
    }
  }

  // What is kept in each dimension of the keys, and that times the key.
  void keep_of(int64_t token, int64_t head, float* kept) const {
    const float *own = room(token), *key = own + m.queries() + head / (m.heads / m.keys) * m.key_dim, *found = own + m.kept_at();
    const bool each = m.steps > m.heads;
    const Vec whole = all(each ? 0.0f : m.steps ? found[head] : m.rates[head]);
    for (int64_t i = 0; i < m.key_dim; i += 16) {
      const Vec share = each ? load(found + head * m.key_dim + i) : whole;
      store(kept + i, share);
      store(kept + m.key_dim + i, share * load(key + i));
    }
  }

  // Columns [at, at + 16 V) of a head's state, one token further.
  template <int V>
  void step(int64_t token, int64_t head, int64_t at, const float* kept, const float* from, float* to) const {
    float* own = room(token);
    const int64_t shared = head / (m.heads / m.keys) * m.key_dim, wide = m.value_dim;
    const float *query = own + shared, *key = own + m.queries() + shared, *value = own + 2 * m.queries() + head * wide + at;
    Vec enters[V], read[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) enters[v] = load(value + 16 * v), read[v] = zero();
    if (m.discrete)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) enters[v] = enters[v] * all(own[m.steps_at() + head]);
    if (m.delta) {
      for (int64_t i = 0; i < m.key_dim; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) read[v] = fma(load(from + i * wide + at + 16 * v), all(kept[m.key_dim + i]), read[v]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) enters[v] = (enters[v] - read[v]) * all(own[m.strength_at() + head]), read[v] = zero();
    }
    for (int64_t i = 0; i < m.key_dim; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec next = fma(all(key[i]), enters[v], load(from + i * wide + at + 16 * v) * all(kept[i]));
        store(to + i * wide + at + 16 * v, next);
        read[v] = fma(all(query[i]), next, read[v]);
      }
    }
    const Vec beside = all(m.skip ? m.skip[head] : 0.0f);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (m.skip) read[v] = fma(beside, load(value + 16 * v), read[v]);
      store(own + m.read_at() + head * wide + at + 16 * v, read[v]);
    }
  }

  // What was read for a token, normed and gated; and what the convolution of later tokens looks back on.
  void close(int64_t token) const {
    float* read = room(token) + m.read_at();
    const X* gates = (const X*)fed.gate + token * fed.gate_stride;
    const auto open = [&](int64_t i, Vec x) {
      const Vec gate = load(gates + i);
      return x * (m.gate == 1 ? gate * logistic(gate) : logistic(gate));
    };
    if (m.gate && m.gate_first)
      for (int64_t i = 0; i < m.inner(); i += 16) store(read + i, open(i, load(read + i)));
    const int64_t parts = std::max<int64_t>(1, m.parts), size = m.inner() / parts;
    for (int64_t part = 0; part < parts; ++part) {
      const Vec scale = all(m.parts ? 1.0f / std::sqrt(squared(read + part * size, size) / size + m.eps) : 1.0f);
      for (int64_t i = part * size; i < (part + 1) * size; i += 16) {
        Vec y = load(read + i) * scale;
        if (m.norm) y = y * load(m.norm + i);
        store(out + token * m.inner() + i, m.gate && !m.gate_first ? open(i, y) : y);
      }
    }
    if (m.width && moves.after[token]) remember(token);
  }

  void remember(int64_t token) const {
    const int64_t row = moves.row_of(token), before = token - moves.starts[row], many = m.width - 1, mixed = m.mixed();
    const float* past = moves.slot(moves.before[row]) + m.state();
    float* to = moves.slot(moves.after[token]) + m.state();
    for (int64_t i = 0; i < many; ++i, to += mixed) {
      const int64_t back = many - 1 - i;
      if (back > before) {
        std::copy_n(past + (many + before - back) * mixed, mixed, to);
        continue;
      }
      const X* x = (const X*)fed.mixed + (token - back) * fed.mixed_stride;
      for (int64_t at = 0; at < mixed; at += 16) store(to + at, load(x + at));
    }
  }
};

// Tokens of a step → out (tokens, inner).
template <typename X>
void recur(const Mixing& m, const Fed& fed, const Moves& moves, X* out, int threads) {
  const int64_t tokens = moves.starts[moves.rows];
  const Recurring<X> work{m, fed, moves, room<float>(tokens * m.room(), 0), out};
  together(threads, [&](const Member& me) {
    me.part(tokens, [&](int64_t token) { work.prepare(token); });
    me.meet();
    me.part(moves.rows * m.heads, [&](int64_t task) { work.carry(task / m.heads, task % m.heads); });
    me.meet();
    me.part(tokens, [&](int64_t token) { work.close(token); });
  });
}

}  // namespace dyno
