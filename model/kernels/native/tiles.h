// Matrix tiles of 16 rows of 64 bytes (AMX): C (16 rows x 16 float) += A (16 rows x 32 bfloat16) times B (16 rows of 16 pairs).
//
// DYNO_EMULATE_TILES builds the same steps in plain C++, so that tests see them on processors without tiles.
#pragma once

#include <cstdlib>

#include "numbers.h"

#if defined(__AMX_BF16__) && !defined(DYNO_EMULATE_TILES)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define DYNO_TILES

namespace dyno {

// Whether the system lets this process use tiles. It has to be asked once.
inline bool tiles_allowed() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  static const bool allowed = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return allowed;
}

// All eight tiles are whole while one that is `wanted` lives, in this thread. To say so takes as long as a dozen products;
// inside another it costs nothing.
class TilesInUse {
  static inline thread_local int users = 0;
  const bool wanted;

 public:
  explicit TilesInUse(bool wanted = true) : wanted(wanted) {
    if (!wanted || users++) return;
    alignas(64) uint8_t config[64] = {1};  // palette 1
    for (int i = 0; i < 8; ++i) {
      config[16 + 2 * i] = 64;  // bytes of a row
      config[48 + i] = 16;      // rows
    }
    asm volatile("ldtilecfg %0" ::"m"(config));  // all of it: GCC's intrinsic told of 8 bytes alone (PR 114098)
  }
  ~TilesInUse() {
    if (wanted && !--users) _tile_release();
  }
  TilesInUse(const TilesInUse&) = delete;
};

#define TILE_ZERO(c) _tile_zero(c)
#define TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define TILE_STORE(c, to, stride) _tile_stored(c, to, stride)
#define TILE_ADD(c, a, b) _tile_dpbf16ps(c, a, b)

}  // namespace dyno

#elif defined(DYNO_EMULATE_TILES)
#define DYNO_TILES

namespace dyno {

inline bool tiles_allowed() { return true; }

class TilesInUse {
  static inline thread_local int users = 0;
  const bool wanted;

 public:
  alignas(64) static inline thread_local char data[8][1024];

  explicit TilesInUse(bool wanted = true) : wanted(wanted) { users += wanted; }
  ~TilesInUse() { users -= wanted; }
  TilesInUse(const TilesInUse&) = delete;

  // Tile `t`; as a processor does, it refuses where none is in use.
  static char* tile(int t) {
    if (!users) std::abort();
    return data[t];
  }

  static void add(int c, int a, int b) {
    auto* sums = reinterpret_cast<float(*)[16]>(tile(c));
    const auto* rows = reinterpret_cast<const bf16(*)[32]>(tile(a));
    const auto* pairs = reinterpret_cast<const bf16(*)[16][2]>(tile(b));
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 16; ++n) {
          sums[m][n] += widen(rows[m][2 * k]) * widen(pairs[k][n][0]);
          sums[m][n] += widen(rows[m][2 * k + 1]) * widen(pairs[k][n][1]);
        }
  }
  static void move(char* to, int64_t to_stride, const char* from, int64_t from_stride) {
    for (int row = 0; row < 16; ++row) std::memcpy(to + row * to_stride, from + row * from_stride, 64);
  }
};

#define TILE_ZERO(c) std::memset(TilesInUse::tile(c), 0, 1024)
#define TILE_LOAD(t, from, stride) TilesInUse::move(TilesInUse::tile(t), 64, (const char*)(from), stride)
#define TILE_STORE(c, to, stride) TilesInUse::move((char*)(to), stride, TilesInUse::tile(c), 64)
#define TILE_ADD(c, a, b) TilesInUse::add(c, a, b)

}  // namespace dyno

#else

namespace dyno {

struct TilesInUse {
  explicit TilesInUse(bool) {}
};

}  // namespace dyno
#endif
