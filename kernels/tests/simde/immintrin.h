// The AVX-512 and AVX-VNNI intrinsics of the kernels on a CPU with AVX2, by SIMDe and, where it lacks one, by plain loops.
// Found before the compiler's own header when the tests are built; nothing of it is part of the library.
#pragma once
#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace vq_emulated {

#pragma GCC diagnostic ignored "-Wignored-attributes"

template <typename T, typename V>
struct Lanes {
  T lane[sizeof(V) / sizeof(T)];
  explicit Lanes(const V& v) { std::memcpy(lane, &v, sizeof v); }
  Lanes() : lane{} {}
  V value() const {
    V v;
    std::memcpy(&v, lane, sizeof v);
    return v;
  }
  static constexpr int count = sizeof(V) / sizeof(T);
};

template <typename T>
simde__m512i funnel(const simde__m512i& a, const simde__m512i& b, int shift) {
  Lanes<T, simde__m512i> x(a), y(b);
  for (int i = 0; shift && i < x.count; ++i)
    x.lane[i] = static_cast<T>(x.lane[i] << shift | y.lane[i] >> (8 * sizeof(T) - shift));
  return x.value();
}

inline simde__m512i alignr(const simde__m512i& a, const simde__m512i& b, int bytes) {
  Lanes<uint8_t, simde__m512i> x(a), y(b), out;
  for (int i = 0; i < 64; ++i) {
    const int at = i % 16 + bytes, base = i / 16 * 16;
    out.lane[i] = at < 16 ? y.lane[base + at] : x.lane[base + at - 16];
  }
  return out.value();
}

template <typename V>
V dpbusd(const V& sums, const V& a, const V& b) {
  Lanes<int32_t, V> out(sums);
  Lanes<uint8_t, V> x(a);
  Lanes<int8_t, V> y(b);
  for (int i = 0; i < 4 * out.count; ++i) out.lane[i / 4] += x.lane[i] * y.lane[i];
  return out.value();
}

inline simde__m512i mulhi(const simde__m512i& a, const simde__m512i& b) {
  Lanes<uint16_t, simde__m512i> x(a), y(b);
  for (int i = 0; i < x.count; ++i) x.lane[i] = static_cast<uint16_t>(uint32_t{x.lane[i]} * y.lane[i] >> 16);
  return x.value();
}

inline simde__m512i srai(const simde__m512i& a, int shift) {
  Lanes<int32_t, simde__m512i> x(a);
  for (auto& lane : x.lane) lane >>= shift;
  return x.value();
}

template <typename T, typename M>
simde__m512i masked_load(M mask, const void* at) {
  Lanes<T, simde__m512i> out;
  for (int i = 0; i < out.count; ++i)
    if (mask >> i & 1) std::memcpy(out.lane + i, static_cast<const char*>(at) + i * sizeof(T), sizeof(T));
  return out.value();
}

inline simde__m512 masked_floats(uint32_t mask, const void* at) {
  return simde_mm512_castsi512_ps(masked_load<uint32_t>(mask, at));
}

inline simde__m512 swapped(const simde__m512& v, int control, bool quarters) {
  Lanes<float, simde__m512> x(v), out;
  for (int i = 0; i < 16; ++i) {
    const int pick = control >> (2 * (quarters ? i / 4 : i % 4)) & 3;
    out.lane[i] = quarters ? x.lane[4 * pick + i % 4] : x.lane[i / 4 * 4 + pick];
  }
  return out.value();
}

inline __m128i low_bytes(const simde__m512i& v) {
  Lanes<int32_t, simde__m512i> x(v);
  Lanes<int8_t, __m128i> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<int8_t>(x.lane[i]);
  return out.value();
}

inline simde__m512i widened(const __m128i& v) {
  Lanes<int8_t, __m128i> x(v);
  Lanes<int32_t, simde__m512i> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = x.lane[i];
  return out.value();
}

inline simde__m512i widened_words(const __m256i& v) {
  Lanes<int16_t, __m256i> x(v);
  Lanes<int32_t, simde__m512i> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = x.lane[i];
  return out.value();
}

inline simde__m512 to_floats(const simde__m512i& v) {
  Lanes<int32_t, simde__m512i> x(v);
  Lanes<float, simde__m512> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<float>(x.lane[i]);
  return out.value();
}

inline simde__m512i to_integers(const simde__m512& v) {
  Lanes<float, simde__m512> x(v);
  Lanes<int32_t, simde__m512i> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<int32_t>(std::nearbyintf(x.lane[i]));
  return out.value();
}

inline simde__m512i gathered(const simde__m512i& index, const void* base, int scale) {
  Lanes<int32_t, simde__m512i> at(index), out;
  for (int i = 0; i < 16; ++i) std::memcpy(out.lane + i, static_cast<const char*>(base) + long{at.lane[i]} * scale, 4);
  return out.value();
}

inline int32_t reduced(const simde__m512i& v, bool largest) {
  Lanes<int32_t, simde__m512i> x(v);
  int32_t result = x.lane[0];
  for (int i = 1; i < 16; ++i) result = largest ? std::max(result, x.lane[i]) : result + x.lane[i];
  return result;
}

}  // namespace vq_emulated

#define _mm512_shldi_epi64(a, b, n) vq_emulated::funnel<uint64_t>(a, b, n)
#define _mm512_shldi_epi16(a, b, n) vq_emulated::funnel<uint16_t>(a, b, n)
#define _mm512_alignr_epi8(a, b, n) vq_emulated::alignr(a, b, n)
#define _mm256_dpbusd_avx_epi32(s, a, b) vq_emulated::dpbusd<__m256i>(s, a, b)
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32(s, a, b) vq_emulated::dpbusd<simde__m512i>(s, a, b)
#define _mm512_mulhi_epu16(a, b) vq_emulated::mulhi(a, b)
#define _mm512_srai_epi32(a, n) vq_emulated::srai(a, n)
#define _mm512_maskz_loadu_epi64(m, p) vq_emulated::masked_load<uint64_t>(m, p)
#define _mm512_maskz_loadu_epi8(m, p) vq_emulated::masked_load<uint8_t>(m, p)
#define _mm512_i32gather_epi32(i, p, n) vq_emulated::gathered(i, p, n)
#define _mm512_maskz_loadu_ps(m, p) vq_emulated::masked_floats(m, p)
#define _mm512_permute_ps(v, c) vq_emulated::swapped(v, c, false)
#define _mm512_shuffle_f32x4(a, b, c) vq_emulated::swapped(a, c, true)
#define _mm512_cvtepi32_epi8(v) vq_emulated::low_bytes(v)
#define _mm512_cvtepi8_epi32(v) vq_emulated::widened(v)
#undef _mm512_cvtepi16_epi32
#define _mm512_cvtepi16_epi32(v) vq_emulated::widened_words(v)
#define _mm512_cvtepi32_ps(v) vq_emulated::to_floats(v)
#define _mm512_cvtps_epi32(v) vq_emulated::to_integers(v)
#define _mm512_reduce_add_epi32(v) vq_emulated::reduced(v, false)
#define _mm512_reduce_max_epi32(v) vq_emulated::reduced(v, true)
