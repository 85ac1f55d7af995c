// Packed linear layers (docs/format.md). The driver is in common/linear.cpp; each instruction set brings the four
// kernels of LinearKernels. Integer results are exact, so every instruction set and thread count gives the same bits.
#pragma once
#include <cstdint>

namespace vq {

// A matrix in layout 2: tiles of 64 rows x 4 columns, 8 tiles to a group.
struct Trellis {
  const uint8_t* payload;
  const void* table;  // hash code: 64 levels of int8; table code: float (2^memory, symbols)
  long out, in;
  long bands, blocks, groups;  // of 64 rows, of 4 columns, of 8 blocks
  int step_bits, memory, symbols, words;
  bool hash;
  uint16_t constant;
  float step;
  const int8_t* pairs;  // hash code: both levels of every state, where a kernel wants them, else null

  const uint8_t* band(long index) const { return payload + index * blocks * words * 8; }
};

// Activations of one row of x: 1 (int8) or 2 (int15: 128 * first + second) planes of int8. A plane has 64 bytes for each
// group: for each of its 8 tiles the four columns, twice.
struct LinearKernels {
  bool wants_pairs;
  // x := H x for one power-of-two-block-diagonal row of n floats.
  void (*hadamard)(float* x, long n);
  // Planes (stride `plane_bytes` apart), the sum of each plane and the unit of one row of n floats.
  void (*quantize)(const float* x, long n, int planes, long plane_bytes, int8_t* acts, int32_t* sums, float* unit);
  // sums[plane * 64 + r] = sum over columns of level * activation, row r of the band. Hash code only.
  void (*dot)(const Trellis& w, long band, const int8_t* acts, const int32_t* act_sums, long planes, int32_t* sums);
  // 64 rows of float values (level * step, or of the table); `stride` floats apart, each `groups * 32` wide.
  void (*decode)(const Trellis& w, long band, float* out, long stride);
};

extern const LinearKernels portable_linear;
extern const LinearKernels avx2_linear;    // defined on x86 only
extern const LinearKernels avx512_linear;  // defined on x86 only

// y(rows, out) = rotation, quantization, product, scales, rotation; any of the signs may be null (no rotation).
void packed_linear(const float* x, long rows, const Trellis& view, const uint16_t* scales, const uint8_t* signs_in,
                   const uint8_t* signs_out, int planes, float* y, int threads);

// Rows [first, first + rows) of a matrix in layout 2 as float (rows, in).
void decode_trellis(const Trellis& view, long first, long rows, float* out, int threads);

// Rows of a matrix in layout 1 with one code a vector: bits of a code, table (entries, dim).
void decode_rows(const uint8_t* payload, int bits, const float* table, long entries, long dim, long in, long first,
                 long rows, float* out, int threads);

// In place over (rows, n): x := signs_last * H(signs_first * x).
void hadamard_rows(float* x, long rows, long n, const uint8_t* signs_first, const uint8_t* signs_last, int threads);

// Reads and checks the 64 bytes of the header; throws std::invalid_argument.
Trellis view_trellis(const uint8_t* weight, long bytes, const void* table);

}  // namespace vq
