// Multi-head latent attention, absorbed (model/attention.py: LatentAttention): what comes before attention, and how what heads
// attended to becomes their values.
#pragma once

#include "before.h"

namespace dyno {

// What sparse selection looks for (choose.h): small queries made of what other queries are made of, and of what the branch sees a
// small key and the weights of the heads.
struct Indexer {
  Weight query, key, weights;
  Norm key_norm;
  int64_t heads, dim, most;
  Rotation rotation;
};

struct Latent {
  const Norm* before;      // null: none
  const OutputGate* gate;  // null: none
  Weight down;             // gives what queries are made of, or queries where there is no `up`; then a latent and a rotary key
  const Norm* query_norm;  // before `up`
  const Weight* up;        // gives queries; null: none
  Norm latent_norm;
  const Weight *keys, *values;  // of each head: from a query's plain part to a latent, and from a latent to a value
  int64_t heads, rank, plain, rotary;
  Rotation rotation;  // of the rotary part
  Growth growth;
  const Indexer* indexer;  // null: none; else there is an `up`

  int64_t scored() const { return rank + rotary; }  // numbers of a query, and of an entry that it is scored with
  int64_t stored() const { return scored() + (indexer ? indexer->dim : 0); }  // numbers of an entry of the cache
};

// Of every row: queries (heads, scored) in the latent space, an entry, gates if there are any, and an indexer's queries and weights.
template <typename X>
struct LatentRows {
  X *queries, *entries, *gates, *small, *weights;
};

// The same number of rows for each head, one head's after the other's, for share_all().
template <typename X>
struct Heads {
  const Weight* weights;
  int64_t heads, size;
  Operand<X> first;

  Heads(const Weight* weights, int64_t heads, int64_t count, int which)
      : weights(weights),
        heads(heads),
        size(Operand<X>::size(count, weights->depth, weights->rounds)),
        first(room<typename Operand<X>::Number>(heads * size, which), weights->depth, count, weights->rounds) {}

  int64_t count() const { return heads; }
  const Weight& weight(int64_t head) const { return weights[head]; }
  Operand<X> rows(int64_t head) const {
    Operand<X> own = first;
    own.data += head * size;
    return own;
  }
  int64_t total() const { return heads * first.blocks.rows; }
  std::pair<Operand<X>, int64_t> row(int64_t i) const { return {rows(i / first.blocks.rows), i % first.blocks.rows}; }
};

// x (rows, width) → `to`.
template <typename X>
void enter(const Latent& l, int64_t rows, const X* x, const Standing<X>& at, const LatentRows<X>& to, int threads) {
  const int64_t scored = l.scored(), stored = l.stored(), dim = l.plain + l.rotary, first = l.down.columns - scored;
  const Indexer* indexer = l.indexer;
  X *queries = to.queries, *entries = to.entries;
  const auto normed = Operand<X>::in_room(0, l.down.depth, rows, l.down.rounds);
  const auto low = Operand<X>::in_room(1, l.up ? first : 0, rows, l.up && l.up->rounds);
  const Heads<X> plain(l.keys, l.heads, rows, 2);
  X* lows = room<X>(l.up ? rows * first : 0, 3);
  const auto turn = [&](int64_t row, X* head) {
    if (l.rotation.turned) rotate(l.rotation, at, row, head + l.rank);
  };
  const auto put_query = [&](int64_t row, int64_t column, Vec y) {
    const int64_t head = column / dim, i = column % dim;
    if (i < l.plain)
      plain.rows(head).pen(row).put(i, y);
    else
      store(queries + (row * l.heads + head) * scored + l.rank + i - l.plain, y);
  };
  std::atomic<int64_t> turns[7] = {};
  together(threads, [&](const Member& me) {
    write_normed(l.before, x, normed, me);
    if (l.gate) share(l.gate->weight, normed, turns[3], me, Place<X>{to.gates, l.gate->weight.columns});
    if (indexer) share(indexer->key, normed, turns[4], me, Place<X>{entries + scored, indexer->dim, stored});
    if (indexer) share(indexer->weights, normed, turns[5], me, Place<X>{to.weights, indexer->heads});
    share(l.down, normed, turns[0], me, by_sixteen(l.down.columns, [&](int64_t row, int64_t column, Vec y) {
      if (column >= first)
        store(entries + row * stored + column - first, y);
      else if (l.up)
        store(lows + row * first + column, y);
      else
        put_query(row, column, y);
    }));
    l.up ? me.meet() : complete_all<X>(plain, me);
    me.part(rows, [&](int64_t row) {
      X* own = entries + row * stored;
      normalise_in_place(l.latent_norm, own, l.rank);
      turn(row, own);
      if (indexer) normalise_in_place(indexer->key_norm, own + scored, indexer->dim);
      if (indexer && indexer->rotation.turned) rotate(indexer->rotation, at, row, own + scored);
    });
    if (l.up) {
      write_normed(l.query_norm, lows, low, me);
      share(*l.up, low, turns[1], me, by_sixteen(l.up->columns, put_query));
      if (indexer) share(indexer->query, low, turns[6], me, Place<X>{to.small, indexer->query.columns});
      complete_all<X>(plain, me);
    }
    share_all<X>(plain, turns[2], me, [&](int64_t head) {
      return by_sixteen(l.rank, [=](int64_t row, int64_t column, Vec y) {
        store(queries + (row * l.heads + head) * scored + column, y);
      });
    });
    me.part(rows * l.heads, [&](int64_t task) { turn(task / l.heads, queries + task * scored); });
    if (indexer && indexer->rotation.turned)
      me.part(rows * indexer->heads, [&](int64_t task) {
        rotate(indexer->rotation, at, task / indexer->heads, to.small + task * indexer->dim);
      });
    if (!l.growth.weight) return;
    me.meet();
    me.part(rows, [&](int64_t row) { l.growth.apply(at.positions[row], queries + row * l.heads * scored, l.heads * scored); });
  });
}

// A thread's share of attended (rows, heads, rank) → values (rows, heads * value) as put(row, column, 16 of them) takes them. All
// threads of a team come.
template <typename X, typename Put>
void raise(const Latent& l, const Heads<X>& latents, const X* attended, std::atomic<int64_t>& turn, const Member& me, Put put) {
  const int64_t rows = latents.first.blocks.rows, value = l.values->columns;
  me.part(l.heads, [&](int64_t head) {
    const Operand<X> own = latents.rows(head);
    for (int64_t row = 0; row < rows; ++row) take(attended + (row * l.heads + head) * l.rank, 0, l.rank, own.pen(row));
  });
  complete_all<X>(latents, me);
  share_all<X>(latents, turn, me, [&](int64_t head) {
    return by_sixteen(value, [&put, head, value](int64_t row, int64_t at, Vec y) { put(row, head * value + at, y); });
  });
}

}  // namespace dyno
