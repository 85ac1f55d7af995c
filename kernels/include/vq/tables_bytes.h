// One row of x times a matrix in layout 4 by tables of inner products in bytes: a register holds 64 entries, a permutation of
// bytes looks up 64 rows. For instruction sets that permute whole registers of 64 bytes (AVX-512 VBMI).
//
// Units are taken in blocks whose tables stay in the first cache while some panels are multiplied with them.
#pragma once
#include <cstdint>

#include "vq/tables.h"

namespace vq {

constexpr long kByteBlock = 16;  // units of a block

struct ByteKernels {
  // Tables of one int8 plane of x for E8P, 512 bytes a unit: for each pair of columns and 64 symbols (two digits of two bits,
  // two signs) the sum of value * x, value = magnitude + 3.5 from 1 to 6, plus 1524: six low bits, then six high ones.
  void (*e8p_lut)(const int8_t* x, long units, uint8_t* lut);
  // Adds up to kByteBlock units of a panel to sums[2 * planes][64]: for each plane those of the tables, then those of x
  // where the move bit is set. `digits` are those of the patterns, 256 bytes of columns 0 to 3 and 256 of the others. The
  // tables of the planes are `lut_stride` apart, the sums of eight x `units_stride`. Place k * 16 + j is row 4 j + k.
  void (*e8p)(const uint8_t* codes, long units, const uint8_t* digits, const uint8_t* lut, long lut_stride,
              const int16_t* x_sums, long units_stride, int planes, int32_t* sums);
  // Tables of `count` units (at most kByteBlock) from `first` on for codes of 8 bits, 512 bytes a unit: inner products with
  // x over the scale, plus 32768: 256 low bytes, 256 high bytes. `columns` are the entries, (parts, width, 256).
  float (*lut)(const Tables& w, const float* columns, const float* x, long first, long count, uint8_t* lut);
  // totals[64] += scale * the sum of the inner products of a block's units, in the order of `e8p`.
  void (*lookups)(const uint8_t* codes, long units, const uint8_t* lut, float scale, float* totals);
};

extern const ByteKernels avx512_bytes;  // defined on x86 only

// The kernels for this matrix on the instruction set in use, or null.
const ByteKernels* byte_kernels(const Tables& w, TableMode mode);

// Whether they can serve a matrix at all.
bool bytes_can(const Tables& w);

// y(rows, out) = product and scales; x (rows, stride) is rotated, and has room of 64 columns behind. `other` serves what is
// the same in all kernels.
void tables_bytes(const ByteKernels& k, const TablesKernels& other, const float* x, long rows, long stride, const Tables& w,
                  const uint16_t* scales, TableMode mode, float* y, int threads);

}  // namespace vq
