// Sixteen floats as two registers of AVX2.
#pragma once

#include <immintrin.h>

#include "numbers.h"

namespace dyno {

// Of 16 registers, two each: vectors that sums may take while rows and weights are multiplied; rows of a block. Panels that few rows take at once.
constexpr int64_t SUMS = 6, MOST = 6, AT_ONCE = 1;

struct Vec {
  __m256 low, high;
  Vec operator+(Vec y) const { return {low + y.low, high + y.high}; }
  Vec operator-(Vec y) const { return {low - y.low, high - y.high}; }
  Vec operator*(Vec y) const { return {low * y.low, high * y.high}; }
  Vec operator/(Vec y) const { return {low / y.low, high / y.high}; }
};
using Mask = Vec;  // all bits of a lane, or none

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec places() { return {_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15)}; }

inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline Vec load(const int8_t* p) {
  const __m128i x = _mm_loadu_si128((const __m128i*)p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}
inline Vec load(const bf16* p) {
  const auto half = [](const bf16* q) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)q)), 16));
  };
  return {half(p), half(p + 8)};
}
inline void store(bf16* p, Vec x) {  // as narrow() does
  const auto half = [](__m256 y) {
    const __m256i bits = _mm256_castps_si256(y), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(y, y, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7fc0), none);
  };
  const __m256i mixed = _mm256_packus_epi32(half(x.low), half(x.high));  // quarters 0, 2, 1, 3
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(mixed, 0xd8));
}

inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
inline Vec fms(Vec a, Vec b, Vec c) { return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)}; }
inline Vec largest(Vec a, Vec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Vec least(Vec a, Vec b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Vec rounded(Vec x) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, nearest), _mm256_round_ps(x.high, nearest)};
}
inline Vec scaled(Vec x, Vec n) {  // x 2^n for a whole n in [-126, 127]: n are the bits of the power's exponent
  const auto power = [](__m256 y) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(y), _mm256_set1_epi32(127)), 23));
  };
  return {x.low * power(n.low), x.high * power(n.high)};
}

inline float sum_of(Vec x) {
  const __m256 eight = x.low + x.high;
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return _mm_cvtss_f32(two) + _mm_cvtss_f32(_mm_movehdup_ps(two));
}
inline float largest_of(Vec x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline Mask lanes(uint32_t bits) {
  const auto half = [](uint32_t eight) {
    const __m256i own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int32_t(eight)), own), own));
  };
  return {half(bits), half(bits >> 8)};
}
inline Mask no_number(Vec x) { return {_mm256_cmp_ps(x.low, x.low, _CMP_UNORD_Q), _mm256_cmp_ps(x.high, x.high, _CMP_UNORD_Q)}; }
inline bool any(Mask which) { return _mm256_movemask_ps(which.low) || _mm256_movemask_ps(which.high); }
inline Mask above(Vec x, Vec bound) {
  return {_mm256_cmp_ps(x.low, bound.low, _CMP_GT_OQ), _mm256_cmp_ps(x.high, bound.high, _CMP_GT_OQ)};
}
inline Mask not_below(Vec x, Vec bound) {
  return {_mm256_cmp_ps(x.low, bound.low, _CMP_NLT_UQ), _mm256_cmp_ps(x.high, bound.high, _CMP_NLT_UQ)};
}
inline Vec pick(Mask which, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.low, yes.low, which.low), _mm256_blendv_ps(no.high, yes.high, which.high)};
}

// 32 numbers that lie in pairs, apart.
struct Pair {
  Vec even, odd;
};
inline Pair pair(__m256i low, __m256i high) {
  const auto even = [](__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); };
  const auto odd = [](__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int32_t(0xffff0000)))); };
  return {{even(low), even(high)}, {odd(low), odd(high)}};
}
inline Pair pair(const bf16* p) {
  return pair(_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 16)));
}
inline Pair pair(const int8_t* p) {
  const auto wide = [](const int8_t* q) { return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)q)); };
  const __m256i low = wide(p), high = wide(p + 16);
  const auto even = [](__m256i x) { return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24), 24)); };
  const auto odd = [](__m256i x) { return _mm256_cvtepi32_ps(_mm256_srai_epi32(x, 8)); };
  return {{even(low), even(high)}, {odd(low), odd(high)}};
}

// 16 numbers of each of two rows, as 16 pairs.
inline void interleave(const bf16* first, const bf16* second, bf16* to) {
  for (int i = 0; i < 16; i += 8) {
    const __m128i a = _mm_loadu_si128((const __m128i*)(first + i)), b = _mm_loadu_si128((const __m128i*)(second + i));
    _mm_storeu_si128((__m128i*)(to + 2 * i), _mm_unpacklo_epi16(a, b));
    _mm_storeu_si128((__m128i*)(to + 2 * i + 8), _mm_unpackhi_epi16(a, b));
  }
}

struct Ints {  // 16 whole numbers, 32 bfloat16 or 64 bytes
  __m256i low, high;
};

inline Ints ints(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints ints(const void* p) { return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)}; }
inline void store(void* p, Ints x) {
  _mm256_storeu_si256((__m256i*)p, x.low);
  _mm256_storeu_si256((__m256i*)p + 1, x.high);
}
inline Pair pair(Ints both) { return pair(both.low, both.high); }

// Four times the same sixteen bytes, and for each of 64 bytes below 16 the one at that place among them.
inline Ints sixteen(const uint8_t* p) {
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p));
  return {twice, twice};
}
inline Ints look_up(Ints sixteen, Ints at) {
  return {_mm256_shuffle_epi8(sixteen.low, at.low), _mm256_shuffle_epi8(sixteen.high, at.high)};
}
inline Ints low_halves(Ints bytes) {
  const __m256i four = _mm256_set1_epi8(15);
  return {_mm256_and_si256(bytes.low, four), _mm256_and_si256(bytes.high, four)};
}
inline Ints high_halves(Ints bytes) { return low_halves({_mm256_srli_epi16(bytes.low, 4), _mm256_srli_epi16(bytes.high, 4)}); }
// Words of a low and a high byte: of every sixteen bytes the first eight, and the others.
inline Ints first_words(Ints low, Ints high) {
  return {_mm256_unpacklo_epi8(low.low, high.low), _mm256_unpacklo_epi8(low.high, high.high)};
}
inline Ints other_words(Ints low, Ints high) {
  return {_mm256_unpackhi_epi8(low.low, high.low), _mm256_unpackhi_epi8(low.high, high.high)};
}
#ifdef __AVXVNNI__
inline __m256i add_products(__m256i sum, __m256i x, __m256i y) { return _mm256_dpbusd_avx_epi32(sum, x, y); }
#else
inline __m256i add_products(__m256i sum, __m256i x, __m256i y) {
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8), odd = _mm256_srai_epi16(y, 8);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)), even));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(x, 8), odd));
}
#endif
inline Ints add_products(Ints sum, Ints x, Ints y) {  // of four bytes each; y has signs
  return {add_products(sum.low, x.low, y.low), add_products(sum.high, x.high, y.high)};
}
inline Vec floats(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
inline Vec size_of(Vec x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}

// Rounded to the nearest whole number, which fits a byte; returns the sum.
inline int32_t narrowed(Vec x, int8_t* to) {
  alignas(32) int32_t whole[16];
  _mm256_store_si256((__m256i*)whole, _mm256_cvtps_epi32(x.low));
  _mm256_store_si256((__m256i*)(whole + 8), _mm256_cvtps_epi32(x.high));
  int32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += whole[i], to[i] = static_cast<int8_t>(whole[i]);
  return sum;
}

// Turn 8 registers of 8 words: word c of register r → word r of register c.
inline void turn(__m256* v) {
  __m256 a[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {  // v[i + j], in lane l: words 4 l + j of registers i .. i + 3
    v[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    v[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    v[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    v[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    const __m256 low = v[j], high = v[4 + j];
    v[j] = _mm256_permute2f128_ps(low, high, 0x20);
    v[4 + j] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}

// The sums of 16 vectors, as one vector.
inline Vec sums_of(const Vec* v) {
  const auto eight = [](const Vec* from) {
    __m256 x[8];
    for (int i = 0; i < 8; ++i) x[i] = from[i].low + from[i].high;
    turn(x);
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
  };
  return {eight(v), eight(v + 8)};
}

// Rows of words, one behind the other: word c of row r → to[c * rows + r].
inline void weave(int64_t rows, int64_t words, const uint32_t* from, uint32_t* to) {
  for (int64_t word = 0; word < words; ++word)
    for (int64_t row = 0; row < rows; ++row) std::memcpy(to++, from + row * words + word, 4);  // they may be floats
}

// Turn 16 rows of 16 words each: word c of row r → to[c * step + r].
inline void turn(const char* const* rows, int64_t at, uint32_t* to, int64_t step) {
  for (int row = 0; row < 16; row += 8)
    for (int word = 0; word < 16; word += 8) {
      __m256 v[8];
      for (int i = 0; i < 8; ++i) v[i] = _mm256_loadu_ps((const float*)(rows[row + i] + at) + word);
      turn(v);
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps((float*)(to + (word + i) * step + row), v[i]);
    }
}

}  // namespace dyno
