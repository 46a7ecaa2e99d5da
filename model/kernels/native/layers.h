// Blocks one after another: what comes before attention, attention over the layer's pages, what comes after it, and a
// mixture where there is one.
#pragma once

#include "attend.h"
#include "experts.h"
#include "router.h"

namespace dyno {

struct Layer {  // what never changes
  const Attention* attention;  // null: latent
  const Latent* latent;
  const Weight* projection;
  const FeedForward* feed;  // null: a mixture
  const Norm* before;       // the mixture
  const Router* router;
  const Experts* experts;
  const float *slopes, *sinks;
  float scale, softcap;
};

struct LayerPlace {  // what a cache has for a layer, and a step for its mixture
  int64_t call, turn;  // which of the step's are its own; no turn: -1
  void *keys, *values;
  Routing routing;
};

struct Turn {  // of a rotary table at the positions of a step
  const void *cos, *sin;
};

struct Surroundings {  // what layers of a step share
  const AttendCall* const* calls;  // of every cache group
  const Turn* turns;
};

// Room to work in, for the widest layer: queries, keys and values; heads; twice the width where there are mixtures.
template <typename X>
struct Rooms {
  X *placed, *attended, *normed, *mixed;
};

template <typename X>
void add(int64_t count, const X* x, X* sum) {
  for (int64_t i = 0; i < count; i += 16) store(sum + i, load(sum + i) + load(x + i));
}

// What comes before attention in a layer; the call of attention is told where in `placed` it is.
template <typename X>
void place(const Attention& a, const Turn* turn, int64_t rows, const X* x, X* placed, AttendCall& c, int threads) {
  enter(a, rows, x, turn ? (const X*)turn->cos : nullptr, turn ? (const X*)turn->sin : nullptr, placed, threads);
  c.paged.heads = a.heads, c.paged.kv_heads = a.kv_heads;
  c.paged.key_dim = c.paged.value_dim = c.paged.value_stride = a.dim;
  c.paged.query_stride = c.key_stride = c.value_stride = a.qkv.columns;
  c.query = placed, c.key = placed + a.heads * a.dim, c.value = placed + (a.heads + a.kv_heads) * a.dim;
}

// The same of latents, which lie in the keys.
template <typename X>
void place(const Latent& l, const Turn* turn, int64_t rows, const X* x, X* placed, AttendCall& c, int threads) {
  X* entries = placed + rows * l.heads * l.stored();
  enter(l, rows, x, turn ? (const X*)turn->cos : nullptr, turn ? (const X*)turn->sin : nullptr, placed, entries, threads);
  c.paged.heads = l.heads, c.paged.kv_heads = 1;
  c.paged.key_dim = c.paged.value_stride = c.key_stride = l.stored();
  c.paged.value_dim = l.rank, c.paged.query_stride = l.heads * l.stored();
  c.query = placed, c.key = entries, c.value = nullptr;
}

// x (rows, width) is overwritten by the result.
template <typename X>
void run(int64_t count, const Layer* layers, const LayerPlace* places, const Surroundings& around, int64_t rows, X* x,
         const Rooms<X>& rooms, int threads) {
  X *placed = rooms.placed, *attended = rooms.attended;
  for (; count > 0; --count, ++layers, ++places) {
    const Turn* turn = places->turn < 0 ? nullptr : around.turns + places->turn;
    AttendCall c = *around.calls[places->call];
    c.paged.slopes = layers->slopes, c.paged.sinks = layers->sinks;
    c.paged.scale = layers->scale, c.paged.softcap = layers->softcap;
    c.keys = places->keys, c.values = places->values ? places->values : places->keys, c.out = attended;
    if (layers->latent)
      place(*layers->latent, turn, rows, x, placed, c, threads);
    else
      place(*layers->attention, turn, rows, x, placed, c, threads);
    attend_as<X>(c, threads);
    leave<X>(*layers->projection, layers->latent, layers->feed, layers->before, rows, x, attended, x, rooms.normed, threads);
    if (layers->feed) continue;
    route<X>(*layers->router, rows, rooms.normed, places->routing, threads);
    mix<X>(*layers->experts, rows, rooms.normed, places->routing.experts, places->routing.gates, rooms.mixed, threads);
    add(rows * layers->projection->columns, rooms.mixed, x);
  }
}

}  // namespace dyno
