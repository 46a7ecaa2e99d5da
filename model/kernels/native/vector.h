// Sixteen numbers at a time: what the kernels need of AVX-512, for float and for bfloat16 (kept as uint16_t).
#pragma once

#include <immintrin.h>

#include "numbers.h"

namespace dyno {

inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, __m512 x) { _mm512_storeu_ps(p, x); }

inline __m512 load(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

#ifdef __AVX512BF16__
inline void store(bf16* p, __m512 x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }
#endif

// e^x to 3e-7, 0 below -87; NaN stays NaN.
inline __m512 exponential(__m512 x) {
  const __m512 t = _mm512_mul_ps(_mm512_max_ps(_mm512_set1_ps(-87.3f), _mm512_min_ps(_mm512_set1_ps(88.0f), x)),
                                 _mm512_set1_ps(1.44269504f));
  const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_mul_ps(_mm512_sub_ps(t, n), _mm512_set1_ps(0.69314718f));
  __m512 p = _mm512_set1_ps(1.0f / 720);
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  const __m512 y = _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ), p, n);
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

// 1 / (1 + e^-x)
inline __m512 logistic(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

inline __m512 tangent(__m512 x) {  // hyperbolic: 2 / (1 + e^-2x) - 1
  const __m512 two = _mm512_set1_ps(2.0f);
  return _mm512_fmsub_ps(two, logistic(_mm512_mul_ps(two, x)), _mm512_set1_ps(1.0f));
}

enum Activation : int64_t { RELU, RELU2, GELU_TANH, SILU };  // the order of ACTIVATIONS in fused.py

inline __m512 activate(int64_t kind, __m512 x) {
  if (kind == SILU) return _mm512_mul_ps(x, logistic(x));
  if (kind == GELU_TANH) {  // 0.5 x (1 + tanh u) = x / (1 + e^-2u)
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 u = _mm512_mul_ps(_mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x), _mm512_set1_ps(1.5957691216f));
    return _mm512_mul_ps(x, logistic(u));
  }
  const __m512 y = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLT_UQ), x);
  return kind == RELU2 ? _mm512_mul_ps(y, y) : y;
}

}  // namespace dyno
