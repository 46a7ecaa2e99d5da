// Sixteen floats as one register of AVX-512.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "numbers.h"

namespace dyno {

// Of 32 registers: vectors that sums may take while rows and weights are multiplied; rows of a block. Panels that few rows take at once.
constexpr int64_t SUMS = 24, MOST = 12, AT_ONCE = 4;

using Vec = __m512;
using Mask = __mmask16;  // bit i: lane i

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec all(float x) { return _mm512_set1_ps(x); }
inline Vec places() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec load(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))); }
inline Vec load(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

#ifdef __AVX512BF16__
inline void store(bf16* p, Vec x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }
#else
inline void store(bf16* p, Vec x) {  // as narrow() does
  const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __m512i most = _mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                                             _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(most));
}
#endif

inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
inline Vec fms(Vec a, Vec b, Vec c) { return _mm512_fmsub_ps(a, b, c); }    // a b - c
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
inline Vec largest(Vec a, Vec b) { return _mm512_max_ps(a, b); }            // b where either is no number
inline Vec least(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec rounded(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec scaled(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }  // x 2^n for a whole n in [-126, 127]

inline float sum_of(Vec x) { return _mm512_reduce_add_ps(x); }
inline float largest_of(Vec x) { return _mm512_reduce_max_ps(x); }

inline Mask lanes(uint32_t bits) { return static_cast<Mask>(bits); }
inline Mask no_number(Vec x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
inline bool any(Mask which) { return which != 0; }
inline Mask not_below(Vec x, Vec bound) { return _mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ); }
inline Mask above(Vec x, Vec bound) { return _mm512_cmp_ps_mask(x, bound, _CMP_GT_OQ); }
inline Vec pick(Mask which, Vec yes, Vec no) { return _mm512_mask_mov_ps(no, which, yes); }

// 32 numbers that lie in pairs, apart.
struct Pair {
  Vec even, odd;
};
inline Pair pair(__m512i both) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(int32_t(0xffff0000))))};
}
inline Pair pair(const bf16* p) { return pair(_mm512_loadu_si512(p)); }
inline Pair pair(const int8_t* p) {
  const __m512i both = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(both, 24), 24)),
          _mm512_cvtepi32_ps(_mm512_srai_epi32(both, 8))};
}

// 16 numbers of each of two rows, as 16 pairs.
inline void interleave(const bf16* first, const bf16* second, bf16* to) {
  const auto wide = [](const bf16* row) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)row)); };
  _mm512_storeu_si512(to, _mm512_or_si512(wide(first), _mm512_slli_epi32(wide(second), 16)));
}

using Ints = __m512i;  // 16 whole numbers, 32 bfloat16 or 64 bytes

inline Ints ints(int32_t x) { return _mm512_set1_epi32(x); }
inline Ints ints(const void* p) { return _mm512_loadu_si512(p); }
inline void store(void* p, Ints x) { _mm512_storeu_si512(p, x); }

// Four times the same sixteen bytes, and for each of 64 bytes below 16 the one at that place among them.
inline Ints sixteen(const uint8_t* p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p)); }
inline Ints look_up(Ints sixteen, Ints at) { return _mm512_shuffle_epi8(sixteen, at); }
inline Ints low_halves(Ints bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
inline Ints high_halves(Ints bytes) { return low_halves(_mm512_srli_epi16(bytes, 4)); }
// Words of a low and a high byte: of every sixteen bytes the first eight, and the others.
inline Ints first_words(Ints low, Ints high) { return _mm512_unpacklo_epi8(low, high); }
inline Ints other_words(Ints low, Ints high) { return _mm512_unpackhi_epi8(low, high); }
#ifdef __AVX512VNNI__
inline Ints add_products(Ints sum, Ints x, Ints y) { return _mm512_dpbusd_epi32(sum, x, y); }  // of four bytes each; y has signs
#else
inline Ints add_products(Ints sum, Ints x, Ints y) {
  const Ints even = _mm512_srai_epi16(_mm512_slli_epi16(y, 8), 8), odd = _mm512_srai_epi16(y, 8);
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0xff)), even));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_srli_epi16(x, 8), odd));
}
#endif
inline Vec floats(Ints x) { return _mm512_cvtepi32_ps(x); }
inline Vec size_of(Vec x) { return _mm512_abs_ps(x); }

// Rounded to the nearest whole number, which fits a byte; returns the sum.
inline int32_t narrowed(Vec x, int8_t* to) {
  const __m512i whole = _mm512_cvtps_epi32(x);
  _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}

// The sums of 16 vectors, as one vector.
inline Vec sums_of(Vec* v) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) v[i] = _mm512_shuffle_f32x4(v[i], v[i + 8], 0x44) + _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88) + _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) v[i] = _mm512_shuffle_ps(v[i], v[i + 2], 0x44) + _mm512_shuffle_ps(v[i], v[i + 2], 0xee);
  const Vec mixed = _mm512_shuffle_ps(v[0], v[1], 0x88) + _mm512_shuffle_ps(v[0], v[1], 0xdd);
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, mixed);
}

// Turn 16 vectors of 16 words each: word c of vector r → word r of vector c.
inline void turn(__m512i* a) {
  __m512i b[16];
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // a[i + j], in lane l: words 4 l + j of rows i .. i + 3
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88), odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i odd2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    b[j] = _mm512_shuffle_i32x4(even, even2, 0x88);
    b[4 + j] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
    b[8 + j] = _mm512_shuffle_i32x4(even, even2, 0xdd);
    b[12 + j] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
  }
  for (int i = 0; i < 16; ++i) a[i] = b[i];
}

// The same of 16 rows in memory: word c of row r → to[c * step + r].
inline void turn(const char* const* rows, int64_t at, uint32_t* to, int64_t step) {
  __m512i a[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i] + at);
  turn(a);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * step, a[i]);
}

// Rows of words, at most 16 of them and one behind the other: word c of row r → to[c * rows + r]. words: a multiple of 16.
// Up to 15 words behind the last are written, too.
inline void weave(int64_t rows, int64_t words, const uint32_t* from, uint32_t* to) {
  for (int64_t at = 0; at < words; at += 16) {
    __m512i a[16];
    for (int64_t i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + std::min(i, rows - 1) * words + at);
    turn(a);
    for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(to + (at + i) * rows, a[i]);
  }
}

}  // namespace dyno
