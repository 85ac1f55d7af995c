#include "vq/linear.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "vq/cpu.h"
#include "vq/steps.h"
#include "vq/tables_wide.h"
#include "vq/threads.h"

namespace vq {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

template <typename T>
std::unique_ptr<T[], Free> aligned(long count) {
  size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, std::max<size_t>(bytes, 64));
  if (!p) throw std::bad_alloc();
  return std::unique_ptr<T[], Free>(static_cast<T*>(p));
}

template <typename T>
T field(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Half precision to float, without branches so that loops over it become vector code.
inline float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = h & 0x7c00u;
  const uint32_t normal = (static_cast<uint32_t>(h & 0x7fffu) << 13) + (exponent == 0x7c00u ? 224u << 23 : 112u << 23);
  const float tiny = static_cast<float>(static_cast<int32_t>(h & 1023u)) * 5.9604644775390625e-8f;  // 2^-24
  uint32_t bits;
  std::memcpy(&bits, &tiny, 4);
  bits = (exponent ? normal : bits) | sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void flip(float* x, long n, const uint8_t* signs) {
  constexpr uint32_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const auto eight = [&](float* at, uint32_t byte, long count) {
    for (long i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, at + i, 4);
      bits ^= byte & bit[i] ? 0x80000000u : 0u;
      std::memcpy(at + i, &bits, 4);
    }
  };
  long i = 0;
  for (; i + 8 <= n; i += 8) eight(x + i, signs[i >> 3], 8);
  if (i < n) eight(x + i, signs[i >> 3], n - i);
}

// A total as a float, rounded once. Below 2^51 in magnitude it fits the digits of a double around 1.5 * 2^52.
inline float to_float(int64_t total) {
  const int64_t bits = total + 0x4338000000000000;
  double value;
  std::memcpy(&value, &bits, 8);
  return static_cast<float>(value - 6755399441055744.0);
}

// Totals of one row of x to floats: 64 rows of a band, cut at the end of the matrix.
void finish(const Product& m, long band, const int64_t* totals, float unit, float* y) {
  const long first = band * 64, rows = std::min(64L, m.w.out - first);
  const float step = m.w.step;
  const uint16_t* scales = m.scales + first;
  float* to = y + first;
  for (long r = 0; r < rows; ++r) to[r] = to_float(totals[r]) * unit * step * from_half(scales[r]);
}

// Both levels of every state of the hash code, where a kernel wants them (the vector ones pass steps of other widths on).
std::vector<int8_t> state_pairs(const LinearKernels& k, const Trellis& w) {
  if (!w.hash || !(k.wants_pairs || w.step_bits < 2 || w.step_bits > 8)) return {};
  const int8_t* levels = static_cast<const int8_t*>(w.table);
  std::vector<int8_t> table(2L << w.memory);
  for (uint32_t s = 0; s < 1u << w.memory; ++s) {
    const uint32_t product = (s << (16 - w.memory)) * w.constant;
    table[2 * s] = levels[product >> 16 & 63];
    table[2 * s + 1] = levels[product >> 8 & 63];
  }
  return table;
}

// Rows of x, rotated and as integers.
struct Quantized {
  Activations view;
  std::unique_ptr<int8_t[], Free> bytes;
  std::unique_ptr<int32_t[], Free> sums;
  std::unique_ptr<int16_t[], Free> wide;
  std::unique_ptr<float[], Free> units;

  Quantized(const LinearKernels& k, const float* x, long rows, long in, const uint8_t* signs, int planes, int threads)
      : view{rows, planes, (in + 31) / 32 * 32 + 64, nullptr, nullptr, nullptr, nullptr},
        bytes(aligned<int8_t>(rows * planes * view.stride)),
        sums(aligned<int32_t>(rows * planes)),
        units(aligned<float>(rows)) {
    if (rows >= k.wide_rows) wide = aligned<int16_t>(rows * view.stride);
    view.bytes = bytes.get();
    view.sums = sums.get();
    view.wide = wide.get();
    parallel_for(rows, 1, threads, [&](long first, long last) {
      auto row = aligned<float>(in);
      for (long i = first; i < last; ++i) one(k, x + i * in, in, signs, row.get(), i);
    });
  }

  void one(const LinearKernels& k, const float* x, long in, const uint8_t* signs, float* row, long i) {
    const long stride = view.stride;
    const int planes = view.planes;
    if (signs) {
      std::copy(x, x + in, row);
      flip(row, in, signs);
      k.hadamard(row, in);
      x = row;
    }
    int8_t* first = bytes.get() + i * planes * stride;
    k.quantize(x, in, planes, stride, first, sums.get() + i * planes, units.get() + i);
    if (!wide) return;
    int16_t* to = wide.get() + i * stride;
    const int8_t* second = first + stride;
    if (planes == 2) {
      for (long c = 0; c < stride; ++c) to[c] = static_cast<int16_t>(first[c] * 128 + second[c]);
    } else {
      for (long c = 0; c < stride; ++c) to[c] = first[c];
    }
  }
};

void multiply(const LinearKernels& k, const Quantized& x, const Product& given, int threads) {
  Product m = given;
  const std::vector<int8_t> pairs = state_pairs(k, m.w);
  m.w.pairs = pairs.data();
  const Levels levels = levels_of(m.w);
  Activations view = x.view;
  std::unique_ptr<uint8_t[], Free> arranged;
  if (const long size = k.arrange ? k.arrange(m.w, levels, view, nullptr) : 0) {
    arranged = aligned<uint8_t>(size);
    k.arrange(m.w, levels, view, arranged.get());
    view.arranged = arranged.get();
  }
  const long rows = view.rows;
  parallel_for(m.w.bands, std::max(1L, m.w.bands / (16L * std::max(1, threads))), threads, [&](long first, long last) {
    auto totals = aligned<int64_t>(rows * 64);
    for (long band = first; band < last; ++band) {
      k.dot(m.w, levels, band, view, totals.get());
      for (long i = 0; i < rows; ++i) finish(m, band, totals.get() + i * 64, x.units[i], m.y + i * m.w.out);
    }
  });
  if (m.signs_out) hadamard_rows(m.y, rows, m.w.out, nullptr, m.signs_out, threads);
}

// Rows of x, rotated, as floats.
struct Rotated {
  long rows, stride;
  std::unique_ptr<float[], Free> x;

  Rotated(const LinearKernels& k, const float* from, long rows, long in, const uint8_t* signs, int threads)
      : rows(rows), stride((in + 63) / 64 * 64), x(aligned<float>(rows * stride)) {
    parallel_for(rows, 1, threads, [&](long first, long last) {
      for (long i = first; i < last; ++i) {
        float* row = x.get() + i * stride;
        std::copy_n(from + i * in, in, row);
        std::fill(row + in, row + stride, 0.0f);
        if (!signs) continue;
        flip(row, in, signs);
        k.hadamard(row, in);
      }
    });
  }
};

bool multiply_values(const LinearKernels& k, const Rotated& x, const Product& m, int threads) {
  std::atomic<bool> served{true};
  parallel_for(m.w.bands, std::max(1L, m.w.bands / (16L * std::max(1, threads))), threads, [&](long first, long last) {
    auto sums = aligned<float>(x.rows * 64 * 8);
    for (long band = first; band < last && served; ++band) {
      if (!k.values_dot(m.w, band, x.x.get(), x.rows, x.stride, sums.get())) {
        served = false;
        return;
      }
      const long top = band * 64, count = std::min(64L, m.w.out - top);
      for (long i = 0; i < x.rows; ++i)
        for (long r = 0; r < count; ++r) m.y[i * m.w.out + top + r] = sums[i * 64 + r] * from_half(m.scales[top + r]);
    }
  });
  if (served && m.signs_out) hadamard_rows(m.y, x.rows, m.w.out, nullptr, m.signs_out, threads);
  return served;
}

// In integers where `integers` is set and a kernel serves the format, else in float.
bool multiply_table(const LinearKernels& k, const Rotated& x, const Product& m, bool integers, int threads) {
  const auto steps = integers ? steps_of(m.w) : nullptr;
  if (!steps) return multiply_values(k, x, m, threads);
  steps_linear(step_kernels(), wide_kernels(), x.x.get(), x.rows, x.stride, m.w, *steps, m.scales, m.y, threads);
  if (m.signs_out) hadamard_rows(m.y, x.rows, m.w.out, nullptr, m.signs_out, threads);
  return true;
}

}  // namespace

const LinearKernels& linear_kernels() {
#if VQ_X86
  static const bool vnni = __builtin_cpu_supports("avxvnni");
  if (isa() == Isa::avx512) return avx512_linear;
  if (isa() == Isa::avx2) return vnni ? avxvnni_linear : avx2_linear;
#elif VQ_NEON
  if (isa() == Isa::neon) return has_dot_product() ? neondot_linear : neon_linear;
#endif
  return portable_linear;
}

Levels levels_of(const Trellis& w) {
  Levels found{};
  std::memcpy(found.level, w.table, 64);
  const int8_t* level = found.level;
  found.count = std::equal(level, level + 48, level + 16) ? 16 : std::equal(level, level + 32, level + 32) ? 32 : 64;
  found.low = *std::min_element(level, level + 64);
  bool even = true;
  for (int i = 0; i < 64; ++i) even = even && (level[i] - found.low) % 2 == 0;
  found.gain = even ? 2 : 1;
  for (int i = 0; i < 64; ++i) found.byte[i] = static_cast<uint8_t>((level[i] - found.low) / found.gain);
  found.narrow = *std::max_element(found.byte, found.byte + 64) <= 63;
  return found;
}

Trellis view_trellis(const uint8_t* weight, long bytes, const void* table) {
  if (bytes < 64 || std::memcmp(weight, "VQPK", 4) != 0 || field<uint16_t>(weight + 4) != 1)
    throw std::invalid_argument("not a packed weight of format version 1");
  Trellis w{};
  w.payload = weight + 64;
  w.table = table;
  w.out = field<uint32_t>(weight + 8);
  w.in = field<uint32_t>(weight + 12);
  w.step_bits = field<uint16_t>(weight + 16);
  w.memory = field<uint16_t>(weight + 20);
  w.symbols = field<uint16_t>(weight + 22);
  w.hash = field<uint16_t>(weight + 24) == 1;
  w.constant = static_cast<uint16_t>(field<uint32_t>(weight + 28));
  w.step = field<float>(weight + 44);
  w.bands = (w.out + 63) / 64;
  w.blocks = (w.in + 3) / 4;
  w.groups = (w.blocks + 7) / 8;
  bool known = field<uint16_t>(weight + 6) == 2 && w.symbols >= 1 && w.symbols <= 256 && 256 % w.symbols == 0 &&
               w.step_bits >= 1 && w.memory >= w.step_bits && w.memory <= 16 && (!w.hash || w.symbols == 2);
  if (!known || 256 / w.symbols * w.step_bits % 64 != 0) throw std::invalid_argument("not a packed trellis");
  w.words = 256 / w.symbols * w.step_bits / 64;
  if (w.bands * w.blocks * w.words * 8 != bytes - 64) throw std::invalid_argument("packed trellis of another size");
  return w;
}

bool packed_linear(const float* x, long rows, long in, const uint8_t* signs_in, int planes, const Product* products,
                   int count, int threads) {
  const LinearKernels& k = linear_kernels();
  const auto hashed = [](const Product& m) { return m.w.hash; };
  const bool integers = std::any_of(products, products + count, hashed);
  std::unique_ptr<Quantized> quantized;
  std::unique_ptr<Rotated> rotated;
  if (integers) quantized = std::make_unique<Quantized>(k, x, rows, in, signs_in, planes, threads);
  if (!std::all_of(products, products + count, hashed)) rotated = std::make_unique<Rotated>(k, x, rows, in, signs_in, threads);
  for (int i = 0; i < count; ++i) {
    if (products[i].w.hash) {
      multiply(k, *quantized, products[i], threads);
    } else if (!multiply_table(k, *rotated, products[i], planes > 0, threads)) {
      return false;
    }
  }
  return true;
}

void decode_trellis(const Trellis& view, long first, long rows, float* out, int threads) {
  const LinearKernels& k = linear_kernels();
  Trellis w = view;
  const std::vector<int8_t> pairs = state_pairs(k, w);
  w.pairs = pairs.data();
  const long width = w.groups * 32, first_band = first / 64, last_band = (first + rows + 63) / 64;
  parallel_for(last_band - first_band, 1, threads, [&](long begin, long end) {
    std::unique_ptr<float[], Free> scratch;
    for (long band = first_band + begin; band < first_band + end; ++band) {
      const long top = band * 64;
      if (top >= first && top + 64 <= first + rows && width == w.in) {
        k.decode(w, band, out + (top - first) * w.in, w.in);
        continue;
      }
      if (!scratch) scratch = aligned<float>(64 * width);
      k.decode(w, band, scratch.get(), width);
      for (long r = std::max(top, first); r < std::min(top + 64, first + rows); ++r)
        std::copy_n(scratch.get() + (r - top) * width, w.in, out + (r - first) * w.in);
    }
  });
}

void decode_rows(const uint8_t* payload, int bits, const float* table, long entries, long dim, long in, long first,
                 long rows, float* out, int threads) {
  const long vectors = (in + dim - 1) / dim;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  std::atomic<bool> bad{false};
  parallel_for(rows, 16, threads, [&](long begin, long end) {
    for (long r = begin; r < end; ++r) {
      float* y = out + r * in;
      for (long v = 0; v < vectors; ++v) {
        const uint64_t at = (static_cast<uint64_t>(first + r) * vectors + v) * bits;
        const uint8_t* byte = payload + (at >> 3);
        uint64_t field = 0;  // reads no byte that the field does not touch
        for (int i = 0; i * 8 < bits + static_cast<int>(at & 7); ++i) field |= uint64_t{byte[i]} << (8 * i);
        field = field >> (at & 7) & mask;
        if (field >= static_cast<uint64_t>(entries)) {
          bad = true;
          return;
        }
        const long count = std::min(dim, in - v * dim);
        std::copy_n(table + field * dim, count, y + v * dim);
      }
    }
  });
  if (bad) throw std::invalid_argument("packed weight is corrupted: a code is beyond the codebook's last entry");
}

void hadamard_rows(float* x, long rows, long n, const uint8_t* signs_first, const uint8_t* signs_last, int threads) {
  const LinearKernels& k = linear_kernels();
  const long grain = std::max(1L, 16384 / std::max(1L, n));
  parallel_for(rows, grain, threads, [&](long first, long last) {
    for (long i = first; i < last; ++i) {
      if (signs_first) flip(x + i * n, n, signs_first);
      k.hadamard(x + i * n, n);
      if (signs_last) flip(x + i * n, n, signs_last);
    }
  });
}

}  // namespace vq
