// Plain C++ table kernels: the fallback for every CPU.
#include "vq/tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "vq/tables_panel.h"

namespace vq {
namespace {

#include "vq/tables_body.inc"

inline int lookup16(const int8_t* lut, int symbol) {
  return static_cast<uint8_t>(lut[symbol]) + 256 * static_cast<int>(lut[16 + symbol]);
}

inline int nibble(const uint8_t* codes, int row) { return codes[row & 31] >> (row < 32 ? 0 : 4) & 15; }

// Symbol of row r and code k of a unit of 3-bit codes.
inline int three(const uint8_t* codes, int row, int k) {
  return (codes[row] >> (2 * k) & 3) | (nibble(codes + 64, row) >> k & 1) << 2;
}

void nibbles(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y) {
  std::fill(y, y + kPanelRows, 0.0f);
  for (long u = 0; u < units; u += block) {
    int sum[kPanelRows] = {};
    for (long i = u; i < std::min(units, u + block); ++i)
      for (int r = 0; r < kPanelRows; ++r) sum[r] += lookup16(lut + i * 32, nibble(codes + i * 32, r));
    for (int r = 0; r < kPanelRows; ++r) y[r] += static_cast<float>(sum[r]) * scale[u / block];
  }
}

void nibbles_float(const uint8_t* codes, long units, const float* lut, float* y) {
  std::fill(y, y + kPanelRows, 0.0f);
  for (long u = 0; u < units; ++u)
    for (int r = 0; r < kPanelRows; ++r) y[r] += lut[u * 16 + nibble(codes + u * 32, r)];
}

void threes(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y) {
  std::fill(y, y + kPanelRows, 0.0f);
  block /= 4;
  for (long u = 0; u < units; u += block) {
    int sum[kPanelRows] = {};
    for (long i = u; i < std::min(units, u + block); ++i)
      for (int k = 0; k < 4; ++k)
        for (int r = 0; r < kPanelRows; ++r) sum[r] += lookup16(lut + (i * 4 + k) * 32, three(codes + i * 96, r, k));
    for (int r = 0; r < kPanelRows; ++r) y[r] += static_cast<float>(sum[r]) * scale[u / block];
  }
}

void threes_float(const uint8_t* codes, long units, const float* lut, float* y) {
  std::fill(y, y + kPanelRows, 0.0f);
  for (long u = 0; u < units; ++u)
    for (int k = 0; k < 4; ++k)
      for (int r = 0; r < kPanelRows; ++r) y[r] += lut[(u * 4 + k) * 16 + three(codes + u * 96, r, k)];
}

void levels(const uint8_t* codes, long units, const int16_t* x, int64_t* sums) {
  std::fill(sums, sums + kPanelRows, int64_t{0});
  for (long u = 0; u < units; ++u)
    for (int r = 0; r < kPanelRows; ++r) sums[r] += static_cast<int>(codes[u * 64 + r]) * x[u];
}

void places(const uint8_t* codes, long units, const uint16_t* offset, int stride, uint16_t* index) {
  for (long u = 0; u < units; ++u)
    for (int r = 0; r < kPanelRows; ++r)
      index[u * kPanelRows + r] = static_cast<uint16_t>(codes[u * kPanelRows + r] * (stride / 2) + offset[u]);
}

inline float product(const float* entry, const float* x, int lanes) {
  float sum = 0.0f;
  for (int i = 0; i < lanes; ++i) sum += entry[i] * x[i];
  return sum;
}

void vectors(const uint16_t* index, long units, const float* table, int lanes, const float* x, float* y) {
  for (long u = 0; u < units; ++u)
    for (int r = 0; r < kPanelRows; ++r)
      y[r] += product(table + 2L * index[u * kPanelRows + r], x + u * lanes, lanes);
}

void long_vectors(const uint16_t* codes, long units, const float* table, const int32_t* offset, int stride, int lanes,
                  const float* x, float* y) {
  for (long u = 0; u < units; ++u)
    for (int r = 0; r < kPanelRows; ++r)
      y[r] += product(table + offset[u] + static_cast<long>(codes[u * kPanelRows + r]) * stride, x + u * lanes, lanes);
}

void e8p(const uint8_t* codes, long units, const uint8_t* magnitude, const int8_t* x, const int16_t* x_sums, int planes,
         int32_t* sums) {
  std::fill(sums, sums + 2 * planes * kPanelRows, 0);
  for (long u = 0; u < units; ++u)
    for (int r = 0; r < kPanelRows; ++r) {
      const int pattern = codes[u * 128 + r], signs = codes[u * 128 + 64 + r];
      const int parity = __builtin_parity(signs & 127);
      int value[8];
      for (int i = 0; i < 8; ++i) value[i] = magnitude[pattern * 8 + i] ^ ((i < 7 ? signs >> i & 1 : parity) ? 7 : 0);
      for (int p = 0; p < planes; ++p) {
        const int8_t* at = x + (p * units + u) * 8;
        int sum = 0;
        for (int i = 0; i < 8; ++i) sum += value[i] * at[i];
        sums[2 * p * kPanelRows + r] += sum;
        if (signs >> 7) sums[(2 * p + 1) * kPanelRows + r] += x_sums[p * units + u];
      }
    }
}

void scales(const uint16_t* from, long groups, float* to) {
  for (long r = 0; r < kPanelRows; ++r)
    for (long g = 0; g < groups; ++g) to[g * kPanelRows + r] = from_half(from[r * groups + g]);
}

void add_scaled(const float* part, const float* scale, float* y) {
  for (long r = 0; r < kPanelRows; ++r) y[r] += part[r] * scale[r];
}

}  // namespace

const TablesKernels portable_tables = {integer_lut, float_lut, nibbles, nibbles_float, threes, threes_float, levels,
                                       places, vectors, long_vectors, e8p, quantize_row, scales, add_scaled};

}  // namespace vq
