// Dense blocks one after another: what comes before attention, attention over the layer's pages, what comes after it.
#pragma once

#include "attend.h"
#include "block.h"

namespace dyno {

struct Layer {  // what never changes
  const Attention* attention;
  const Weight* projection;
  const FeedForward* feed;
  const float *slopes, *sinks;
  float scale, softcap;
};

struct Lying {  // what a step and its cache have for a layer
  const AttendCall* call;  // of its cache group
  void *keys, *values;
  const void *cos, *sin;
};

// x (rows, width) is overwritten by the result. placed (rows, queries, keys and values of the widest layer) and attended
// (rows, heads * dim of the widest) are room to work in.
template <typename X>
void run(int64_t count, const Layer* layers, const Lying* lying, int64_t rows, X* x, X* placed, X* attended, int threads) {
  for (; count > 0; --count, ++layers, ++lying) {
    const Attention& a = *layers->attention;
    enter(a, rows, x, (const X*)lying->cos, (const X*)lying->sin, placed, threads);
    AttendCall c = *lying->call;
    c.paged.heads = a.heads, c.paged.kv_heads = a.kv_heads;
    c.paged.key_dim = c.paged.value_dim = c.paged.value_stride = a.dim;
    c.paged.query_stride = c.key_stride = c.value_stride = a.qkv.columns;
    c.paged.slopes = layers->slopes, c.paged.sinks = layers->sinks;
    c.paged.scale = layers->scale, c.paged.softcap = layers->softcap;
    c.query = placed, c.key = placed + a.heads * a.dim, c.value = placed + (a.heads + a.kv_heads) * a.dim;
    c.keys = lying->keys, c.values = lying->values, c.out = attended;
    attend_as<X>(c, threads);
    leave<X>(*layers->projection, layers->feed, nullptr, rows, x, attended, x, nullptr, threads);
  }
}

}  // namespace dyno
