// Sixteen numbers at a time, by whichever vector units this is built for; DYNO_VECTORS says that there are any.
#pragma once

#include "numbers.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define DYNO_VECTORS
#include "avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#define DYNO_VECTORS
#include "avx2.h"
#endif

#ifdef DYNO_VECTORS
namespace dyno {

inline Vec keep(Mask which, Vec x) { return pick(which, x, zero()); }

// e^x to 3e-7, 0 below -87; NaN stays NaN.
__attribute__((always_inline)) inline Vec exponential(Vec x) {
  const Vec t = largest(all(-87.3f), least(all(88.0f), x)) * all(1.44269504f), n = rounded(t);
  const Vec r = (t - n) * all(0.69314718f);
  Vec p = all(1.0f / 720);
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = fma(p, r, all(c));
  return pick(no_number(x), x, keep(not_below(x, all(-87.0f)), scaled(p, n)));
}

// 1 / (1 + e^-x)
inline Vec logistic(Vec x) { return all(1.0f) / (all(1.0f) + exponential(zero() - x)); }

// Hyperbolic: 2 / (1 + e^-2x) - 1
inline Vec tangent(Vec x) { return fms(all(2.0f), logistic(all(2.0f) * x), all(1.0f)); }

// x times the share of a normal distribution below x, to 2e-7; by what is above |x| (Abramowitz and Stegun, 7.1.26).
inline Vec gelu(Vec x) {
  const Vec z = size_of(x) * all(0.70710678f), t = all(1.0f) / fma(z, all(0.3275911f), all(1.0f));
  Vec p = all(1.061405429f);
  for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = fma(p, t, all(c));
  const Vec beyond = all(0.5f) * p * t * exponential(zero() - z * z);
  return x * pick(not_below(x, zero()), all(1.0f) - beyond, beyond);
}

enum Activation : int64_t { RELU, RELU2, GELU, GELU_TANH, SILU, CLAMPED };  // the order of NAMES in feeding.py

inline Vec activate(int64_t kind, Vec x) {
  if (kind == SILU) return x * logistic(x);
  if (kind == GELU) return gelu(x);
  if (kind == GELU_TANH)  // 0.5 x (1 + tanh u) = x / (1 + e^-2u)
    return x * logistic(fma(x * x * x, all(0.044715f), x) * all(1.5957691216f));
  const Vec y = keep(not_below(x, zero()), x);
  return kind == RELU2 ? y * y : y;
}

struct Activating {
  int64_t kind;
  float limit, slope;  // of CLAMPED, which is always gated

  inline Vec operator()(Vec x) const { return activate(kind, x); }
  inline Vec operator()(Vec gate, Vec value) const {
    if (kind != CLAMPED) return activate(kind, gate) * value;
    gate = least(all(limit), gate), value = largest(all(-limit), least(all(limit), value));
    return (value + all(1.0f)) * gate * logistic(gate * all(slope));
  }
};

// What two runs of numbers are multiplied in, and `width` numbers of a run.
template <typename T>
struct Products {
  static constexpr int64_t width = 16;
  static inline Vec take(const T* p) { return load(p); }
  static inline Vec add(Vec sum, Vec a, Vec b) { return fma(a, b, sum); }
};

#ifdef __AVX512BF16__
template <>
struct Products<bf16> {
  static constexpr int64_t width = 32;
  static inline __m512i take(const bf16* p) { return _mm512_loadu_si512(p); }
  static inline Vec add(Vec sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};
#else
template <>
struct Products<bf16> {
  static constexpr int64_t width = 32;
  static inline Pair take(const bf16* p) { return pair(p); }
  static inline Vec add(Vec sum, const Pair& a, const Pair& b) { return fma(a.odd, b.odd, fma(a.even, b.even, sum)); }
};
#endif

}  // namespace dyno
#endif
