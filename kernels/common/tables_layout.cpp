// Layout 4: the header, single codes, single rows as floats, and the pieces and inputs that several kernels need.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "vq/tables.h"
#include "vq/tables_panel.h"
#include "vq/threads.h"

namespace vq {
namespace {

template <typename T>
T field(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Field `index` of `bits` bits, lowest bit first; reads no byte that the field does not touch.
int bit_field(const uint8_t* at, long index, int bits) {
  const long first = index * bits;
  uint32_t value = 0;
  for (long i = first >> 3; i <= (first + bits - 1) >> 3; ++i) value |= static_cast<uint32_t>(at[i]) << (8 * (i - (first >> 3)));
  return value >> (first & 7) & ((1u << bits) - 1);
}

int nibble(const uint8_t* at, long rows, long r) { return r < rows / 2 ? at[r] & 15 : at[r - rows / 2] >> 4; }

// Adds (or for the first of a sum, sets) the weights of code j to a row. False for a code beyond the table.
bool place(const Tables& w, long j, long code, float* row) {
  const long column = w.column(j), count = std::min<long>(w.width, w.in - column);
  if (count <= 0) return true;
  if (w.magnitude) {
    float eight[8];
    e8p_point(w, static_cast<int>(code), eight);
    std::copy_n(eight, count, row + column);
    return true;
  }
  if (code >= w.entries) return false;
  const float* entry = w.part(j) + code * w.width;
  if (w.width != w.dim || j % w.parts == 0) {
    std::copy_n(entry, count, row + column);
  } else {
    for (long i = 0; i < count; ++i) row[column + i] += entry[i];
  }
  return true;
}

bool decode_row(const Tables& w, long row, float* out) {
  const long panel = row / kPanelRows, r = row % kPanelRows, rows = w.rows_of(panel), bytes = w.unit_bytes(rows);
  bool fine = true;
  for (long u = 0; u < w.units; ++u)
    for (int k = 0; k < w.fold && u * w.fold + k < w.codes; ++k)
      fine &= place(w, u * w.fold + k, code_at(w, w.panel(panel) + u * bytes, rows, r, k), out);
  return fine;
}

}  // namespace

void e8p_point(const Tables& w, int code, float* out) {
  const int signs = code >> 8, parity = __builtin_parity(signs & 127);
  const float move = code >> 15 ? 0.25f : -0.25f;
  for (int i = 0; i < 8; ++i) {
    const int value = w.magnitude[(code & 255) * 8 + i] ^ ((i < 7 ? signs >> i & 1 : parity) ? 7 : 0);
    out[i] = (static_cast<float>(value) - 3.5f + move) * w.step;
  }
}

int code_at(const Tables& w, const uint8_t* unit, long rows, long r, int k) {
  if (w.bits == 3) return (unit[r] >> (2 * k) & 3) | (nibble(unit + rows, rows, r) >> k & 1) << 2;
  if (w.bits <= 4) return nibble(unit, rows, r) >> (k * w.bits) & ((1 << w.bits) - 1);
  if (w.bits <= 8) return bit_field(unit, r, w.bits);
  return unit[r] | bit_field(unit + rows, r, w.bits - 8) << 8;
}

Tables view_tables(const uint8_t* weight, long bytes, const void* table, long parts, long entries, long width) {
  if (bytes < 64 || std::memcmp(weight, "VQPK", 4) != 0 || field<uint16_t>(weight + 4) != 1 ||
      field<uint16_t>(weight + 6) != 4)
    throw std::invalid_argument("not a packed weight of format version 1 and layout 4");
  Tables w{};
  w.payload = weight + 64;
  w.out = field<uint32_t>(weight + 8);
  w.in = field<uint32_t>(weight + 12);
  w.bits = field<uint16_t>(weight + 16);
  w.dim = field<uint16_t>(weight + 18);
  w.parts = field<uint16_t>(weight + 26);
  w.step = field<float>(weight + 44);
  w.entries = entries;
  w.width = static_cast<int>(width);
  const bool e8p = field<uint16_t>(weight + 24) == 2;
  const bool known = w.out > 0 && w.in > 0 && w.bits >= 1 && w.bits <= 16 && w.dim >= 1 && w.parts >= 1;
  if (!known || entries < 1 || (!e8p && entries > 1L << w.bits))
    throw std::invalid_argument("packed weight: a table that its header does not allow");
  if (e8p) {
    if (w.bits != 16 || w.dim != 8 || w.parts != 1 || parts != 0 || entries != 256 || width != 8)
      throw std::invalid_argument("packed weight: E8P has 256 patterns of 8");
    w.magnitude = static_cast<const uint8_t*>(table);
  } else {
    if (parts != w.parts || (width != w.dim && width * w.parts != w.dim))
      throw std::invalid_argument("packed weight: tables of another size than its codes need");
    w.table = static_cast<const float*>(table);
  }
  w.fold = w.bits == 1 || w.bits == 3 ? 4 : w.bits == 2 ? 2 : 1;
  w.codes = (w.in + w.dim - 1) / w.dim * w.parts;
  w.units = (w.codes + w.fold - 1) / w.fold;
  w.group = field<uint16_t>(weight + 50);
  w.groups = w.group ? (w.in + w.group - 1) / w.group : 1;
  if (w.group % kScaleColumns || w.group % w.dim || w.group / w.dim * w.parts % w.fold)
    throw std::invalid_argument("packed weight: columns that share a scale must be whole units, and a multiple of 32");
  w.panels = (w.out + kPanelRows - 1) / kPanelRows;
  if (w.panel(w.panels - 1) + w.units * w.unit_bytes(w.rows_of(w.panels - 1)) - weight != bytes)
    throw std::invalid_argument("packed weight: another size than its header says");
  return w;
}

float e8p_inputs(Quantize quantize, const float* x, long n, long units, int planes, int8_t* bytes, int16_t* sums,
                 int64_t* total) {
  const long columns = units * 8;
  Buffer<int16_t> q(columns);
  const float unit = quantize(x, n, columns, planes == 2 ? 16319 : 127, q.get());
  for (long c = 0; c < columns; ++c) {
    const int low = planes == 2 ? ((q.get()[c] + 64) & 127) - 64 : q.get()[c];
    if (planes == 2) bytes[columns + c] = static_cast<int8_t>(low);
    bytes[c] = static_cast<int8_t>(planes == 2 ? (q.get()[c] - low) >> 7 : low);
    *total += q.get()[c];
  }
  for (long u = 0; u < planes * units; ++u) {
    int sum = 0;
    for (int c = 0; c < 8; ++c) sum += bytes[u * 8 + c];
    sums[u] = static_cast<int16_t>(sum);
  }
  return unit;
}

bool even_levels(const Tables& w) {
  if (w.bits != 8 || w.dim != 1 || w.parts != 1 || w.entries < 2) return false;
  const double first = w.table[0], range = w.table[w.entries - 1] - first, step = range / static_cast<double>(w.entries - 1);
  for (long c = 0; c < w.entries; ++c)
    if (!(std::fabs(w.table[c] - first - static_cast<double>(c) * step) <= 1e-6 * std::fabs(range))) return false;
  return true;
}

std::vector<Piece> pieces_of(const Tables& w) {
  std::vector<Piece> found;
  for (long g = 0; g < w.groups; ++g) {
    Piece piece{w, 0, 0};
    if (w.group) {
      piece.column = g * w.group;
      piece.unit = piece.column / w.dim * w.parts / w.fold;
      piece.w.in = std::min(w.group, w.in - piece.column);
      piece.w.codes = (piece.w.in + w.dim - 1) / w.dim * w.parts;
      piece.w.units = (piece.w.codes + w.fold - 1) / w.fold;
    }
    found.push_back(piece);
  }
  return found;
}

void gather_tables(const Tables& w, const int64_t* index, long count, float* out, int threads) {
  for (long i = 0; i < count; ++i)
    if (index[i] < 0 || index[i] >= w.out) throw std::invalid_argument("embedding: an index is beyond the last row");
  std::atomic<bool> fine{true};
  parallel_for(count, 4, threads, [&](long begin, long end) {
    for (long i = begin; i < end; ++i)
      if (!decode_row(w, index[i], out + i * w.in)) fine = false;
  });
  if (!fine) throw std::invalid_argument("packed weight is corrupted: a code is beyond the codebook's last entry");
}

}  // namespace vq
