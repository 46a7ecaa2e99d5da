// What the library does for Python, in one type of numbers. Each type is compiled in a file of its own (float.cpp, bfloat16.cpp),
// beside the other; native.cpp is the way in.
#pragma once

#include "attend.h"

#ifdef DYNO_VECTORS
#include "ends.h"
#include "experts.h"
#include "layers.h"
#endif

namespace dyno {

template <typename X>
struct Doors {
  static void attend(const AttendCall& call, int threads);
#ifdef DYNO_VECTORS
  static void linear(const Weight& weight, bool wide_out, int64_t rows, const void* x, void* out, int threads);
  static void enter(const Attention& a, int64_t rows, const void* x, const int64_t* positions, const void* cos, const void* sin, void* out,
                    void* gates, int threads);
  static void enter_latent(const Latent& l, int64_t rows, const void* x, const int64_t* positions, const void* cos, const void* sin,
                           const void* to, int threads);
  static void leave(const After& a, int64_t rows, const void* x, const void* attended, const void* gates, void* out, void* normed,
                    int threads);
  static void join(const Joining& how, int64_t rows, int64_t width, const void* x, void* result, void* out, int threads);
  static void feed(const FeedAlone& ff, int64_t rows, const void* x, void* out, int threads);
  static void layers(int64_t count, const Layer* layers, const LayerPlace* places, const Surroundings& around, int64_t rows, void* x,
                     const void* rooms, int threads);
  static void route(const Router& router, int64_t rows, const void* x, const Routing& routing, int threads);
  static void turn(const Angles& angles, int64_t rows, const int64_t* positions, void* cos, void* sin, int threads);
  static void finish(const Norm& norm, const Weight& head, int64_t rows, const void* x, float* logits, int threads);
  static void enter_recurrent(const Recurrent& r, int64_t rows, const void* x, void* placed, int threads);
  static void recur(const Mixing& m, const Fed& fed, const Moves& moves, void* out, int threads);
  static void mix(const Experts& experts, int64_t tokens, const void* x, const int64_t* chosen, const float* gates, void* out, int threads);
#endif
};

template <typename X>
void Doors<X>::attend(const AttendCall& call, int threads) {
  attend_as<X>(call, threads);
}

#ifdef DYNO_VECTORS
template <typename X, typename Y>
void linear_to(const Weight& weight, int64_t rows, const X* x, Y* out, int threads) {
  const auto taken = Operand<X>::in_room(0, weight.depth, rows, weight.rounds);
  std::atomic<int64_t> turn{0};
  together(threads, [&](const Member& me) {
    write_rows(taken, me, [&](int64_t row, int64_t from, int64_t to) { take(x + row * weight.depth, from, to, taken.pen(row)); });
    share(weight, taken, turn, me, Place<Y>{out, weight.columns});
  });
}

template <typename X>
void Doors<X>::linear(const Weight& weight, bool wide_out, int64_t rows, const void* x, void* out, int threads) {
  if (wide_out) return linear_to(weight, rows, (const X*)x, (float*)out, threads);
  linear_to(weight, rows, (const X*)x, (X*)out, threads);
}

template <typename X>
void Doors<X>::enter(const Attention& a, int64_t rows, const void* x, const int64_t* positions, const void* cos, const void* sin, void* out,
                     void* gates, int threads) {
  dyno::enter(a, rows, (const X*)x, {positions, (const X*)cos, (const X*)sin}, (X*)out, (X*)gates, threads);
}

template <typename X>
void Doors<X>::enter_latent(const Latent& l, int64_t rows, const void* x, const int64_t* positions, const void* cos, const void* sin,
                            const void* to, int threads) {
  dyno::enter(l, rows, (const X*)x, {positions, (const X*)cos, (const X*)sin}, *(const LatentRows<X>*)to, threads);
}

template <typename X>
void Doors<X>::leave(const After& a, int64_t rows, const void* x, const void* attended, const void* gates, void* out, void* normed,
                    int threads) {
  dyno::leave(a, rows, (const X*)x, (const X*)attended, (const X*)gates, (X*)out, (X*)normed, threads);
}

template <typename X>
void Doors<X>::join(const Joining& how, int64_t rows, int64_t width, const void* x, void* result, void* out, int threads) {
  dyno::join<X>(how, rows, width, (const X*)x, (X*)result, nullptr, (X*)out, threads);
}

template <typename X>
void Doors<X>::feed(const FeedAlone& ff, int64_t rows, const void* x, void* out, int threads) {
  dyno::feed(ff, rows, (const X*)x, (X*)out, threads);
}

template <typename X>
void Doors<X>::layers(int64_t count, const Layer* layers, const LayerPlace* places, const Surroundings& around, int64_t rows, void* x,
                      const void* rooms, int threads) {
  run(count, layers, places, around, rows, (X*)x, *(const Rooms<X>*)rooms, threads);
}

template <typename X>
void Doors<X>::turn(const Angles& angles, int64_t rows, const int64_t* positions, void* cos, void* sin, int threads) {
  dyno::turn(angles, rows, positions, (X*)cos, (X*)sin, threads);
}

template <typename X>
void Doors<X>::finish(const Norm& norm, const Weight& head, int64_t rows, const void* x, float* logits, int threads) {
  dyno::finish(norm, head, rows, (const X*)x, logits, threads);
}

template <typename X>
void Doors<X>::route(const Router& router, int64_t rows, const void* x, const Routing& routing, int threads) {
  dyno::route(router, rows, (const X*)x, routing, threads);
}

template <typename X>
void Doors<X>::enter_recurrent(const Recurrent& r, int64_t rows, const void* x, void* placed, int threads) {
  dyno::enter(r, rows, (const X*)x, (X*)placed, threads);
}

template <typename X>
void Doors<X>::recur(const Mixing& m, const Fed& fed, const Moves& moves, void* out, int threads) {
  dyno::recur(m, fed, moves, (X*)out, threads);
}

template <typename X>
void Doors<X>::mix(const Experts& experts, int64_t tokens, const void* x, const int64_t* chosen, const float* gates, void* out, int threads) {
  dyno::mix(experts, tokens, (const X*)x, chosen, gates, (X*)out, threads);
}
#endif

}  // namespace dyno
