// The doors of the compiled kernels. native.py builds the files of this folder, loads them and repeats what the functions
// below take (SIGNATURES); the modules beside it mirror the structs that they fill.

#include "doors.h"

using namespace dyno;

extern template struct dyno::Doors<float>;
extern template struct dyno::Doors<bf16>;

#define EITHER(call) (narrow ? Doors<bf16>::call : Doors<float>::call)

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

void dyno_attend(int narrow, const void* call, int threads) { EITHER(attend(*static_cast<const AttendCall*>(call), threads)); }

#ifdef DYNO_VECTORS
void dyno_linear(int narrow, int wide_out, const Weight* weight, int64_t rows, const void* x, void* out, int threads) {
  EITHER(linear(*weight, wide_out != 0, rows, x, out, threads));
}

void dyno_pack(int64_t units, const void* numbers, const uint8_t* upper, uint8_t* to, uint8_t* odd, int threads) {
  pack(units, (const bf16*)numbers, upper, to, odd, threads);
}

void dyno_enter(int narrow, const Attention* a, int64_t rows, const void* x, const int64_t* positions, const void* cos, const void* sin,
                void* out, void* gates, int threads) {
  EITHER(enter(*a, rows, x, positions, cos, sin, out, gates, threads));
}

void dyno_enter_latent(int narrow, const Latent* l, int64_t rows, const void* x, const int64_t* positions, const void* cos,
                       const void* sin, const void* to, int threads) {
  EITHER(enter_latent(*l, rows, x, positions, cos, sin, to, threads));
}

void dyno_enter_recurrent(int narrow, const Recurrent* r, int64_t rows, const void* x, void* placed, int threads) {
  EITHER(enter_recurrent(*r, rows, x, placed, threads));
}

void dyno_recur(int narrow, const Mixing* mixing, const Fed* fed, const Moves* moves, void* out, int threads) {
  EITHER(recur(*mixing, *fed, *moves, out, threads));
}

void dyno_leave(int narrow, const After* a, int64_t rows, const void* x, const void* attended, const void* gates, void* out,
                void* normed, int threads) {
  EITHER(leave(*a, rows, x, attended, gates, out, normed, threads));
}

void dyno_join(int narrow, const Joining* how, int64_t rows, int64_t width, const void* x, void* result, void* out, int threads) {
  EITHER(join(*how, rows, width, x, result, out, threads));
}

void dyno_feed(int narrow, const FeedAlone* ff, int64_t rows, const void* x, void* out, int threads) {
  EITHER(feed(*ff, rows, x, out, threads));
}

void dyno_layers(int narrow, int64_t count, const Layer* layers, const LayerPlace* places, const Surroundings* around, int64_t rows,
                 void* x, const void* rooms, int threads) {
  EITHER(layers(count, layers, places, *around, rows, x, rooms, threads));
}

void dyno_turn(int narrow, const Angles* angles, int64_t rows, const int64_t* positions, void* cos, void* sin, int threads) {
  EITHER(turn(*angles, rows, positions, cos, sin, threads));
}

void dyno_finish(int narrow, const Norm* norm, const Weight* head, int64_t rows, const void* x, float* logits, int threads) {
  EITHER(finish(*norm, *head, rows, x, logits, threads));
}

void dyno_look(int64_t rows, int64_t count, int64_t stride, const float* logits, int64_t* best, bool* finite, int threads) {
  look_at(rows, count, stride, logits, best, finite, threads);
}

void dyno_route(int narrow, const Router* router, int64_t rows, const void* x, const Routing* routing, int threads) {
  EITHER(route(*router, rows, x, *routing, threads));
}

void dyno_mix(int narrow, const Experts* experts, int64_t tokens, const void* x, const int64_t* chosen, const float* gates,
              void* out, int threads) {
  EITHER(mix(*experts, tokens, x, chosen, gates, out, threads));
}

#endif
}
