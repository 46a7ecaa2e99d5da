// Attention of one query a sequence over a paged cache, read in place. Built on demand by native.py.
//
// One task is a (row, key head): its G query heads share every key and value that is read. Softmax runs online, a page
// at a time, in float32, so a row's result does not depend on the other rows or on how the work is shared out.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

inline float widen(float x) { return x; }
inline float widen(uint16_t x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

inline void narrow(float x, float* out) { *out = x; }
inline void narrow(float x, uint16_t* out) {  // round to nearest even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) {
    *out = 0x7fc0;
    return;
  }
  bits += 0x7fff + ((bits >> 16) & 1);
  *out = static_cast<uint16_t>(bits >> 16);
}

// e^x for x <= 0 by 2^n * polynomial; relative error under 3e-7, 0 below -87, and NaN for NaN.
inline float fast_exp(float x) {
  const float t = std::max(x, -87.0f) * 1.44269504f;
  const float n = std::nearbyint(t);
  const float r = (t - n) * 0.69314718f;
  float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.16666667f + r * (0.041666668f + r * (0.0083333338f + r * 0.0013888889f)))));
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  p *= scale;
  return x < -87.0f ? 0.0f : (x == x ? p : x);
}

struct Shape {
  int64_t rows, heads, kv_heads, key_dim, value_dim, page_size, table_width, value_stride;
};

// FIXED is the key and value dimension where it is known at compile time (loops unroll, remainders vanish), else 0.
template <typename T, int64_t FIXED>
void one_task(const Shape& s, int64_t row, int64_t kv, const T* query, const T* keys, const T* values,
              const int64_t* pages, int64_t table_start, int64_t first, int64_t last, float scale, float softcap,
              const float* slopes, const float* sinks, T* out, float* scratch) {
  const int64_t G = s.heads / s.kv_heads, P = s.page_size;
  const int64_t D = FIXED ? FIXED : s.key_dim, V = FIXED ? FIXED : s.value_dim;
  float* __restrict q = scratch;              // G * D, scaled
  float* __restrict acc = q + G * D;          // G * V
  float* __restrict k = acc + G * V;          // D
  float* __restrict logits = k + std::max(D, V);  // G * P
  float* top = logits + G * P;     // G
  float* sum = top + G;            // G
  const T* own = query + (row * s.heads + kv * G) * D;
  for (int64_t i = 0; i < G * D; ++i) q[i] = widen(own[i]) * scale;
  std::fill(acc, acc + G * V, 0.0f);
  for (int64_t g = 0; g < G; ++g) {
    top[g] = sinks ? sinks[kv * G + g] : -std::numeric_limits<float>::infinity();
    sum[g] = sinks ? 1.0f : 0.0f;
  }
  for (int64_t start = first / P * P; start <= last; start += P) {
    const int64_t page = pages[row * s.table_width + (start - table_start) / P];
    const int64_t from = std::max(first, start) - start, to = std::min(last, start + P - 1) - start + 1;
    const T* page_keys = keys + (page * P * s.kv_heads + kv) * D;
    const T* page_values = values + (page * P * s.kv_heads + kv) * s.value_stride;
    for (int64_t t = from; t < to; ++t) {
      const T* key = page_keys + t * s.kv_heads * D;
      for (int64_t d = 0; d < D; ++d) k[d] = widen(key[d]);
      for (int64_t g = 0; g < G; ++g) {
        float dot = 0.0f;
        const float* qg = q + g * D;
        for (int64_t d = 0; d < D; ++d) dot += qg[d] * k[d];
        logits[g * P + t] = dot;
      }
    }
    for (int64_t g = 0; g < G; ++g) {
      float* l = logits + g * P;
      if (softcap > 0)
        for (int64_t t = from; t < to; ++t) l[t] = softcap * std::tanh(l[t] / softcap);
      if (slopes)
        for (int64_t t = from; t < to; ++t) l[t] -= slopes[kv * G + g] * static_cast<float>(last - start - t);
      float best = top[g];
      for (int64_t t = from; t < to; ++t) best = l[t] > best || l[t] != l[t] ? l[t] : best;
      const float shrink = top[g] == best ? 1.0f : fast_exp(top[g] - best);
      top[g] = best;
      float added = 0.0f;
      for (int64_t t = from; t < to; ++t) {
        l[t] = fast_exp(l[t] - best);
        added += l[t];
      }
      sum[g] = sum[g] * shrink + added;
      if (shrink != 1.0f)
        for (int64_t v = 0; v < V; ++v) acc[g * V + v] *= shrink;
    }
    for (int64_t t = from; t < to; ++t) {
      const T* value = page_values + t * s.kv_heads * s.value_stride;
      for (int64_t v = 0; v < V; ++v) k[v] = widen(value[v]);
      for (int64_t g = 0; g < G; ++g) {
        const float weight = logits[g * P + t];
        float* a = acc + g * V;
        for (int64_t v = 0; v < V; ++v) a[v] += weight * k[v];
      }
    }
  }
  T* mine = out + (row * s.heads + kv * G) * V;
  for (int64_t g = 0; g < G; ++g) {
    const float share = 1.0f / sum[g];
    for (int64_t v = 0; v < V; ++v) narrow(acc[g * V + v] * share, mine + g * V + v);
  }
}

template <typename T, int64_t FIXED>
void share_out(const Shape& s, const T* query, const T* keys, const T* values, const int64_t* pages,
            const int64_t* table_starts, const int64_t* firsts, const int64_t* lasts, float scale, float softcap,
            const float* slopes, const float* sinks, T* out, int threads) {
  const int64_t G = s.heads / s.kv_heads, wide = std::max(s.key_dim, s.value_dim);
  const int64_t room = G * (s.key_dim + s.value_dim + s.page_size + 2) + wide;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch(room);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < s.rows * s.kv_heads; ++task) {
      const int64_t row = task / s.kv_heads;
      one_task<T, FIXED>(s, row, task % s.kv_heads, query, keys, values, pages, table_starts[row], firsts[row], lasts[row], scale,
               softcap, slopes, sinks, out, scratch.data());
    }
  }
}

template <typename T, typename... Rest>
void decode(const Shape& s, const T* query, Rest... rest) {
  const int64_t dim = s.key_dim == s.value_dim ? s.key_dim : 0;
  if (dim == 64)
    share_out<T, 64>(s, query, rest...);
  else if (dim == 128)
    share_out<T, 128>(s, query, rest...);
  else if (dim == 32)
    share_out<T, 32>(s, query, rest...);
  else
    share_out<T, 0>(s, query, rest...);
}

}  // namespace

extern "C" void dyno_paged_decode(int bf16, const int64_t* shape, const void* query, const void* keys,
                                  const void* values, const int64_t* pages, const int64_t* table_starts,
                                  const int64_t* firsts, const int64_t* lasts, float scale, float softcap,
                                  const float* slopes, const float* sinks, void* out, int threads) {
  const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7]};
  if (bf16)
    decode(s, static_cast<const uint16_t*>(query), static_cast<const uint16_t*>(keys),
           static_cast<const uint16_t*>(values), pages, table_starts, firsts, lasts, scale, softcap, slopes, sinks,
           static_cast<uint16_t*>(out), threads);
  else
    decode(s, static_cast<const float*>(query), static_cast<const float*>(keys), static_cast<const float*>(values),
           pages, table_starts, firsts, lasts, scale, softcap, slopes, sinks, static_cast<float*>(out), threads);
}
