// The doors of the compiled kernels. native.py builds this file and loads it; fused.py, layers.py, experts.py, panels.py, lossless.py and inplace.py mirror the structs.

#include "attend.h"

#ifdef DYNO_VECTORS
#include "experts.h"
#include "layers.h"
#endif

using namespace dyno;

namespace {

#ifdef DYNO_VECTORS
template <typename X, typename Y>
void linear(const Weight& weight, int64_t rows, const X* x, Y* out, int threads) {
  const auto taken = Operand<X>::in_room(0, weight.depth, rows, weight.rounds);
  std::atomic<int64_t> turn{0};
#pragma omp parallel num_threads(threads)
  {
#pragma omp for
    for (int64_t row = 0; row < rows; ++row) take(x + row * weight.depth, weight.depth, taken.pen(row));
    share(weight, taken, turn, threads, Place<Y>{out, weight.columns});
  }
}
#endif

}  // namespace

extern "C" {

// What this build can do: 1 linear layers in float, 2 in bfloat16, 4 by matrix tiles.
int dyno_features() {
  int features = 0;
#ifdef DYNO_VECTORS
  features |= 1 | 2;
#endif
#ifdef DYNO_TILES
  features |= tiles_allowed() ? 4 : 0;
#endif
  return features;
}

void dyno_attend(int narrow, const void* call, int threads) {
  const auto& c = *static_cast<const AttendCall*>(call);
  narrow ? attend_as<bf16>(c, threads) : attend_as<float>(c, threads);
}

#ifdef DYNO_VECTORS
#define EITHER(call_bf16, call_float) (narrow ? call_bf16 : call_float)

void dyno_linear(int narrow, int wide_out, const Weight* weight, int64_t rows, const void* x, void* out, int threads) {
  if (narrow && wide_out) return linear(*weight, rows, (const bf16*)x, (float*)out, threads);
  if (narrow) return linear(*weight, rows, (const bf16*)x, (bf16*)out, threads);
  linear(*weight, rows, (const float*)x, (float*)out, threads);
}

void dyno_pack(int64_t units, const void* numbers, const uint8_t* upper, uint8_t* to, uint8_t* odd, int threads) {
  pack(units, (const bf16*)numbers, upper, to, odd, threads);
}

void dyno_enter(int narrow, const Attention* a, int64_t rows, const void* x, const void* cos, const void* sin, void* out,
                int threads) {
  EITHER(enter(*a, rows, (const bf16*)x, (const bf16*)cos, (const bf16*)sin, (bf16*)out, threads),
         enter(*a, rows, (const float*)x, (const float*)cos, (const float*)sin, (float*)out, threads));
}

void dyno_leave(int narrow, const Weight* projection, const FeedForward* ff, const Norm* norm, int64_t rows,
                const void* x, const void* attended, void* out, void* normed, int threads) {
  EITHER(leave(*projection, ff, norm, rows, (const bf16*)x, (const bf16*)attended, (bf16*)out, (bf16*)normed, threads),
         leave(*projection, ff, norm, rows, (const float*)x, (const float*)attended, (float*)out, (float*)normed, threads));
}

void dyno_layers(int narrow, int64_t count, const Layer* layers, const LayerPlace* places, int64_t rows, void* x, const void* rooms,
                 int threads) {
  EITHER(run(count, layers, places, rows, (bf16*)x, *(const Rooms<bf16>*)rooms, threads),
         run(count, layers, places, rows, (float*)x, *(const Rooms<float>*)rooms, threads));
}

void dyno_route(int narrow, const Router* router, int64_t rows, const void* x, const Routing* routing, int threads) {
  EITHER(route(*router, rows, (const bf16*)x, *routing, threads), route(*router, rows, (const float*)x, *routing, threads));
}

void dyno_mix(int narrow, const Experts* experts, int64_t tokens, const void* x, const int64_t* chosen, const float* gates,
              void* out, int threads) {
  EITHER(mix(*experts, tokens, (const bf16*)x, chosen, gates, (bf16*)out, threads),
         mix(*experts, tokens, (const float*)x, chosen, gates, (float*)out, threads));
}
#endif
}
