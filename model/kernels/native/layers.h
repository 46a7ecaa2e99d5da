// Blocks one after another: what comes before attention, attention over the layer's pages or a recurrent mixer over its slots, what
// comes after it, and a mixture where there is one.
#pragma once

#include "attend.h"
#include "experts.h"
#include "recur.h"
#include "router.h"

namespace dyno {

struct Layer {  // what never changes
  const Attention* attention;  // null: latent (of `after`),
  const Recurrent* recurrent;  // or this, or nothing of the kind
  const After* after;
  const Router* router;  // a mixture's
  const Experts* experts;
  const FeedAlone* shared;  // beside the experts; null: none
  const float *slopes, *sinks;
  float scale, softcap;
};

struct LayerPlace {  // what a cache has for a layer, and a step for its mixture
  int64_t call, turn;  // which of the step's are its own; no turn: -1
  void *keys, *values;  // of a recurrent mixer, its slots
  int64_t numbers;      // of a slot
  Routing routing;
  Loads loads;
};

struct Turn {  // of a rotary table at the positions of a step
  const void *cos, *sin;
};

struct Surroundings {  // what layers of a step share
  const int64_t* positions;
  const AttendCall* const* calls;  // of every cache group
  const Turn* turns;
  const Moves* moves;  // of rows whose states are carried on, but for the slots
};

// Room to work in, for the widest layer: queries, keys and values; gates; heads; three times the width where there are mixtures.
template <typename X>
struct Rooms {
  X *placed, *gates, *attended, *normed, *mixed, *shared;
};

// result (rows, width), and `more` where it is not null, join x; `out` may be x.
template <typename X>
void join(const Joining& how, int64_t rows, int64_t width, const X* x, X* result, const X* more, X* out, int threads) {
  together(rows > 16 ? threads : 1, [&](const Member& me) {
    me.part(rows, [&](int64_t row) {
      const int64_t at = row * width;
      for (int64_t i = at; more && i < at + width; i += 16) store(result + i, load(result + i) + load(more + i));
      how.apply(x + at, result + at, out + at, width);
    });
  });
}

// What comes before attention in a layer; the call of attention is told where it is.
template <typename X>
void place(const Attention& a, const Standing<X>& at, int64_t rows, const X* x, const Rooms<X>& rooms, AttendCall& c, int threads) {
  X* placed = rooms.placed;
  enter(a, rows, x, at, placed, rooms.gates, threads);
  c.paged.heads = a.heads, c.paged.kv_heads = a.kv_heads;
  c.paged.key_dim = c.paged.value_dim = c.paged.key_stride = c.paged.value_stride = a.dim;
  c.paged.query_stride = c.key_stride = c.value_stride = a.placed();
  c.query = placed, c.key = placed + a.heads * a.dim, c.value = placed + (a.heads + a.kv_heads) * a.dim;
}

// The same of latents, which lie in the keys.
template <typename X>
void place(const Latent& l, const Standing<X>& at, int64_t rows, const X* x, const Rooms<X>& rooms, AttendCall& c, int threads) {
  X* entries = rooms.placed + rows * l.heads * l.scored();
  X* small = entries + rows * l.stored();
  X* weights = small + (l.indexer ? rows * l.indexer->query.columns : 0);
  enter(l, rows, x, at, {rooms.placed, entries, rooms.gates, small, weights}, threads);
  c.paged.heads = l.heads, c.paged.kv_heads = 1;
  c.paged.key_dim = l.scored(), c.paged.key_stride = c.paged.value_stride = c.key_stride = l.stored();
  c.paged.value_dim = l.rank, c.paged.query_stride = l.heads * l.scored();
  c.query = rooms.placed, c.key = entries, c.value = nullptr;
  if (l.indexer) c.selection = {small, weights, l.indexer->heads, l.indexer->dim, l.indexer->most};
}

// Attention of a layer, x → rooms.attended and rooms.gates.
template <typename X>
void attend(const Layer& layer, const LayerPlace& own, const Surroundings& around, int64_t rows, const X* x, const Rooms<X>& rooms,
            int threads) {
  const Turn turn = own.turn < 0 ? Turn{} : around.turns[own.turn];
  const Standing<X> at{around.positions, (const X*)turn.cos, (const X*)turn.sin};
  AttendCall c = *around.calls[own.call];
  c.selection = {};
  c.paged.slopes = layer.slopes, c.paged.sinks = layer.sinks;
  c.paged.scale = layer.scale, c.paged.softcap = layer.softcap;
  c.keys = own.keys, c.values = own.values ? own.values : own.keys, c.out = rooms.attended;
  if (layer.attention)
    place(*layer.attention, at, rows, x, rooms, c, threads);
  else
    place(*layer.after->latent, at, rows, x, rooms, c, threads);
  attend_as<X>(c, threads);
}

// A recurrent mixer in its place.
template <typename X>
void carry(const Recurrent& r, const LayerPlace& own, const Surroundings& around, int64_t rows, const X* x, const Rooms<X>& rooms,
           int threads) {
  Moves moves = *around.moves;
  moves.slots = (float*)own.keys, moves.numbers = own.numbers;
  enter(r, rows, x, rooms.placed, threads);
  recur(r.mixing, r.fed(rooms.placed), moves, rooms.attended, threads);
}

// A layer's mixture, of what leave() left in rooms.normed.
template <typename X>
void mix_in(const Layer& layer, const LayerPlace& place, int64_t rows, X* x, const Rooms<X>& rooms, int threads) {
  const int64_t width = layer.after->projection.columns;
  const Routing& routing = place.routing;
  route<X>(*layer.router, rows, rooms.normed, routing, threads);
  if (layer.router->capacity) drop_over_capacity(*layer.router, place.loads, rows, routing);
  mix<X>(*layer.experts, rows, rooms.normed, routing.experts, routing.gates, rooms.mixed, threads);
  if (layer.shared) feed<X>(*layer.shared, rows, rooms.normed, rooms.shared, threads);
  join<X>(layer.after->fed, rows, width, x, rooms.mixed, layer.shared ? rooms.shared : nullptr, x, threads);
}

// x (rows, width) is overwritten by the result.
template <typename X>
void run(int64_t count, const Layer* layers, const LayerPlace* places, const Surroundings& around, int64_t rows, X* x,
         const Rooms<X>& rooms, int threads) {
  for (; count > 0; --count, ++layers, ++places) {
    if (layers->recurrent)
      carry(*layers->recurrent, *places, around, rows, x, rooms, threads);
    else if (layers->attention || layers->after->latent)
      attend(*layers, *places, around, rows, x, rooms, threads);
    leave<X>(*layers->after, rows, x, rooms.attended, rooms.gates, x, rooms.normed, threads);
    if (layers->experts) mix_in(*layers, *places, rows, x, rooms, threads);
  }
}

}  // namespace dyno
