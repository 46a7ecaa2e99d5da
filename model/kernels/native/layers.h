// Blocks one after another: what comes before attention, attention over the layer's pages, what comes after it, and a
// mixture where there is one.
#pragma once

#include "attend.h"
#include "experts.h"
#include "router.h"

namespace dyno {

struct Layer {  // what never changes
  const Attention* attention;
  const Weight* projection;
  const FeedForward* feed;  // null: a mixture
  const Norm* before;       // the mixture
  const Router* router;
  const Experts* experts;
  const float *slopes, *sinks;
  float scale, softcap;
};

struct LayerPlace {  // what a cache has for a layer, and a step for its mixture
  int64_t call, turn;  // which of the step's are its own
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

// x (rows, width) is overwritten by the result.
template <typename X>
void run(int64_t count, const Layer* layers, const LayerPlace* places, const Surroundings& around, int64_t rows, X* x,
         const Rooms<X>& rooms, int threads) {
  X *placed = rooms.placed, *attended = rooms.attended;
  for (; count > 0; --count, ++layers, ++places) {
    const Attention& a = *layers->attention;
    const Turn turn = a.turned ? around.turns[places->turn] : Turn{};
    enter(a, rows, x, (const X*)turn.cos, (const X*)turn.sin, placed, threads);
    AttendCall c = *around.calls[places->call];
    c.paged.heads = a.heads, c.paged.kv_heads = a.kv_heads;
    c.paged.key_dim = c.paged.value_dim = c.paged.value_stride = a.dim;
    c.paged.query_stride = c.key_stride = c.value_stride = a.qkv.columns;
    c.paged.slopes = layers->slopes, c.paged.sinks = layers->sinks;
    c.paged.scale = layers->scale, c.paged.softcap = layers->softcap;
    c.query = placed, c.key = placed + a.heads * a.dim, c.value = placed + (a.heads + a.kv_heads) * a.dim;
    c.keys = places->keys, c.values = places->values, c.out = attended;
    attend_as<X>(c, threads);
    leave<X>(*layers->projection, layers->feed, layers->before, rows, x, attended, x, rooms.normed, threads);
    if (layers->feed) continue;
    route<X>(*layers->router, rows, rooms.normed, places->routing, threads);
    mix<X>(*layers->experts, rows, rooms.normed, places->routing.experts, places->routing.gates, rooms.mixed, threads);
    add(rows * layers->projection->columns, rooms.mixed, x);
  }
}

}  // namespace dyno
