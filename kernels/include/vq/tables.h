// Linear layers of table codes in layout 4 (docs/format.md): panels of 64 rows, codes of one column for all rows side by
// side. The driver is in common/tables.cpp; each instruction set brings the kernels of TablesKernels.
#pragma once
#include <cstdint>

namespace vq {

constexpr long kPanelRows = 64;
constexpr long kMostBlock = 16;  // lookups whose products are summed in 16 bits
constexpr long kScaleColumns = 32;  // what columns that share a scale are a multiple of

// A matrix in layout 4.
struct Tables {
  const uint8_t* payload;
  const float* table;       // (parts, entries, width) floats, or null for E8P
  const uint8_t* magnitude;  // E8P: (256, 8) magnitudes + 3.5 (4, 5, 6); a last one that parity makes negative: 3, 2, 1
  long out, in;
  int bits, dim, parts;  // of a code; weights of a vector; codes of a vector
  long entries;          // of one table
  int width;             // weights of one code: dim (codes add up), or dim / parts (codes stand side by side)
  float step;            // E8P: unit of the coordinates
  long codes, units, panels;  // of a row; of a row; of the matrix
  int fold;                   // codes of a unit
  long group, groups;         // columns that share a scale, 0: all; scales of a row

  // Rows of a panel as stored: 64, or the rest of the matrix up to a multiple of 8.
  long rows_of(long panel) const {
    const long rest = (out - panel * kPanelRows + 7) / 8 * 8;
    return rest < kPanelRows ? rest : kPanelRows;
  }
  long unit_bytes(long rows) const { return rows * fold * bits / 8; }
  const uint8_t* panel(long index) const { return payload + index * units * unit_bytes(kPanelRows); }
  // First column of code j of a row.
  long column(long j) const { return j / parts * dim + (width == dim ? 0 : j % parts * width); }
  const float* part(long j) const { return table + j % parts * entries * width; }
};

// Everything here works on one panel of 64 rows (`codes` as stored, full), one row of x, and sets 64 floats y.
struct TablesKernels {
  // Inner products of the columns of each unit with its 16 possible symbols, as integers (32 bytes a unit: 16 low bytes, 16
  // high bytes) so large that no sum over `block` units (at most kMostBlock) leaves 16 bits, with the scale of each block.
  void (*integer_lut)(const Tables& w, const float* x, long block, int8_t* lut, float* scale);
  // The same as floats, 16 a unit.
  void (*float_lut)(const Tables& w, const float* x, float* lut);
  // Codes of 1, 2 or 4 bits.
  void (*nibbles)(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y);
  void (*nibbles_float)(const uint8_t* codes, long units, const float* lut, float* y);
  // Codes of 3 bits: here a lookup table belongs to a code, four to a unit; a block is a
  // multiple of four.
  void (*threes)(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y);
  void (*threes_float)(const uint8_t* codes, long units, const float* lut, float* y);
  // Codes of 8 bits that are levels: y = sum of code * x.
  void (*levels)(const uint8_t* codes, long units, const int16_t* x, int64_t* sums);
  // Codes as the places of their vectors in a table, in pairs of floats: index = code * stride / 2 + offset of the unit.
  void (*places)(const uint8_t* codes, long units, const uint16_t* offset, int stride, uint16_t* index);
  // y += sum over units of the vectors at `index` times x; `lanes` (4, or a multiple of 8) floats of x a unit. May read
  // `lanes` floats from the last vector's begin on.
  void (*vectors)(const uint16_t* index, long units, const float* table, int lanes, const float* x, float* y);
  // The same for codes of large tables: a unit's begins at offset, its vectors are `stride` floats apart.
  void (*long_vectors)(const uint16_t* codes, long units, const float* table, const int32_t* offset, int stride,
                       int lanes, const float* x, float* y);
  // E8P: for each plane 64 sums of (magnitude + 3.5, its sign bit an XOR with 7) * x, then 64 of x where the move bit is
  // set. A plane of x has 8 bytes a unit; x_sums are the sums of these eight.
  void (*e8p)(const uint8_t* codes, long units, const uint8_t* magnitude, const int8_t* x, const int16_t* x_sums,
              int planes, int32_t* sums);
  // x of one row as integers (15 bits, or 8), zero beyond n up to `padded`; returns the unit.
  float (*quantize)(const float* x, long n, long padded, int top, int16_t* q);
  // Scales of 64 rows, (64, groups) halves, as floats (groups, 64).
  void (*scales)(const uint16_t* from, long groups, float* to);
  // y += part * scale, 64 of each.
  void (*add_scaled)(const float* part, const float* scale, float* y);
};

extern const TablesKernels portable_tables;
extern const TablesKernels avx2_tables;    // defined on x86 only
void use_avx512(TablesKernels* kernels);   // replaces what AVX-512 does better; defined on x86 only
void use_neon(TablesKernels* kernels);     // replaces what NEON does better; defined on 64-bit Arm only

// Those of the instruction set in use.
const TablesKernels& table_kernels();

enum class TableMode { floats = 0, int8 = 1, int15 = 2 };

// y(rows, out) = rotation, product, scales (out, w.groups), rotation; any of the signs may be null (no rotation).
void tables_linear(const float* x, long rows, const Tables& w, const uint16_t* scales, const uint8_t* signs_in,
                   const uint8_t* signs_out, TableMode mode, float* y, int threads);

// Rows [first, first + rows) as float (rows, in), in units of the codebook.
void decode_tables(const Tables& w, long first, long rows, float* out, int threads);

// Rows of the given numbers as float (count, in).
void gather_tables(const Tables& w, const int64_t* index, long count, float* out, int threads);

// Code k of row r of a unit stored with `rows` rows.
int code_at(const Tables& w, const uint8_t* unit, long rows, long r, int k);

// The eight weights of a code of E8P.
void e8p_point(const Tables& w, int code, float* out);

// Reads and checks the header; throws std::invalid_argument. `width` is the last size of the table, `parts` its first, or 0
// for the 256 x 8 bytes of E8P.
Tables view_tables(const uint8_t* weight, long bytes, const void* table, long parts, long entries, long width);

// Name of the kernel that serves so many rows, for people.
const char* tables_kernel(const Tables& w, TableMode mode, long rows);

}  // namespace vq
