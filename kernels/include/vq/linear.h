// Packed linear layers (docs/format.md). The driver is in common/linear.cpp; each instruction set brings the
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

// The hash code's levels as unsigned bytes: level = gain * byte + low. A code of 16 or 32 levels has a table of 64 that
// repeats them.
struct Levels {
  int8_t level[64];
  uint8_t byte[64];
  int count;    // 16, 32 or 64: the shortest period
  int gain;     // 2 where all levels are odd or all are even, else 1
  int low;      // the lowest level
  bool narrow;  // no byte above 63: four products with int8 and their sum fit 16 bits
};
Levels levels_of(const Trellis& w);

// Rows of x as integers. A row has 1 plane of int8 (int8) or 2 (int15: 128 * first + second).
struct Activations {
  long rows;
  int planes;
  long stride;           // bytes of a plane: 32 a group, zero beyond the columns, and 64 more that may be read
  const int8_t* bytes;   // [rows * planes][stride], columns in order
  const int32_t* sums;   // [rows * planes]
  const int16_t* wide;   // [rows][stride]: the integers themselves, where a kernel wants them, else null
  const void* arranged;  // what LinearKernels::arrange made of them for a matrix, else null

  const int8_t* plane(long row, int index) const { return bytes + (row * planes + index) * stride; }
};

struct LinearKernels {
  bool wants_pairs;
  long wide_rows;  // from how many rows on `dot` reads Activations::wide
  // x := H x for one power-of-two-block-diagonal row of n floats.
  void (*hadamard)(float* x, long n);
  // Planes (`stride` bytes apart), the sum of each plane and the unit of one row of n floats.
  void (*quantize)(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit);
  // The same numbers in the order in which `dot` takes them with this matrix: how many bytes (0: as they are), written to
  // `out`, 32-byte aligned, unless it is null. Null where a set has nothing to arrange.
  long (*arrange)(const Trellis& w, const Levels& levels, const Activations& x, void* out);
  // totals[row of x * 64 + r] = sum over columns of level * activation, row r of the band. Hash code only.
  void (*dot)(const Trellis& w, const Levels& levels, long band, const Activations& x, int64_t* totals);
  // 64 rows of float values (level * step, or of the table); `stride` floats apart, each `groups * 32` wide.
  void (*decode)(const Trellis& w, long band, float* out, long stride);
  // sums[row of x * 64 + r] = sum over columns of value * x, in float: the code is a table. Rows of x are `stride` floats
  // apart, zero from the columns to a multiple of 64 of them; `sums` has room for eight times the sums and lies at a multiple
  // of 32 bytes. False where the format is not served.
  bool (*values_dot)(const Trellis& w, long band, const float* x, long rows, long stride, float* sums);
};

extern const LinearKernels portable_linear;
extern const LinearKernels avx2_linear;     // these are defined on x86 only
extern const LinearKernels avxvnni_linear;
extern const LinearKernels avx512_linear;
extern const LinearKernels neon_linear;     // these on 64-bit Arm only
extern const LinearKernels neondot_linear;

// The kernels of the instruction set in use.
const LinearKernels& linear_kernels();

// One of several matrices that share their input.
struct Product {
  Trellis w;
  const uint16_t* scales;    // float16, one a row
  const uint8_t* signs_out;  // or null: no rotation of the outputs
  float* y;                  // (rows, out)
};

// y(rows, out) = rotation, quantization, products, scales, rotation; signs_in may be null (no rotation). Matrices whose code is
// a table multiply x in float where `planes` is 0, else in integers (steps.h). False where no kernel serves one of them.
bool packed_linear(const float* x, long rows, long in, const uint8_t* signs_in, int planes, const Product* products,
                   int count, int threads);

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
