// Lines of memory asked for before they are needed.
#pragma once

#include <cstdint>

namespace dyno {

// Whether a line that is asked for as one that is read only once stays near until it is read, however much comes between. AMD's
// processors with AVX-512 keep it (measured on Zen 5; compilers call them by older names), and let it make room for nothing;
// Intel's may drop it as soon as the first cache is full.
#if defined(__AVX512F__) && (defined(__znver3__) || defined(__znver4__) || defined(__znver5__))
constexpr bool ONCE_STAYS = true;
#else
constexpr bool ONCE_STAYS = false;
#endif

// Ask for the line at `at`. once: it is read once a step, and what everybody on these cores comes back to (programs, queues, a
// token's rows) shall not be pushed out for it.
inline void ask(const char* at, bool once) {
  if (ONCE_STAYS && once)
    __builtin_prefetch(at, 0, 0);
  else
    __builtin_prefetch(at, 0, 3);
}

// Lines to ask for while something else is computed: nobody waits for them then. once: as for ask().
struct Ahead {
  const char* at = nullptr;
  int64_t lines = 0;
  bool once = false;

  // Part `part` of `parts`.
  Ahead share(int64_t part, int64_t parts) const {
    const int64_t from = lines * part / parts;
    return {at + 64 * from, lines * (part + 1) / parts - from, once};
  }
  // What is due at one of `steps` steps; `due` begins with 0.
  void ask_due(int64_t& due, int64_t steps) {
    for (due += lines; due >= steps; due -= steps, at += 64) ask(at, once);
  }
};

// So many numbers from `at` on.
template <typename W>
inline Ahead whole(const W* at, int64_t numbers, bool once) {
  return {(const char*)at, numbers * int64_t(sizeof(W)) / 64, once};
}

}  // namespace dyno
