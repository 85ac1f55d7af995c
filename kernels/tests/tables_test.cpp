// The table kernels of layout 4, of every instruction set, against a reference written from docs/format.md.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "vq/cpu.h"
#include "vq/tables.h"
#include "vq/tables_bytes.h"
#include "vq/tables_wide.h"

namespace {

struct Case {
  const char* name;
  int bits, dim, parts;
  bool beside;
  int entries;  // 0: all there can be
};

const Case cases[] = {
    {"binary", 1, 1, 1, false, 0},     {"ternary", 2, 1, 1, false, 3},    {"scalar2", 2, 1, 1, false, 0},
    {"scalar3", 3, 1, 1, false, 0},    {"scalar4", 4, 1, 1, false, 0},    {"scalar6", 6, 1, 1, false, 50},
    {"scalar8", 8, 1, 1, false, 0},    {"levels8", 8, 1, 1, false, 0},    {"pairs4", 4, 2, 1, false, 0},
    {"pairs8", 8, 2, 1, false, 0},     {"triples7", 7, 3, 1, false, 100}, {"kmeans4x8", 8, 4, 1, false, 0},
    {"kmeans4x12", 12, 4, 1, false, 0}, {"kmeans8x9", 9, 8, 1, false, 300}, {"kmeans16x8", 8, 16, 1, false, 0},
    {"2x8", 8, 8, 2, false, 0},        {"sum3", 3, 4, 2, false, 0},       {"sum2", 2, 3, 3, false, 0},
    {"product8", 8, 8, 2, true, 0},    {"residual8", 8, 3, 4, false, 0},  {"e8p", 16, 8, 1, false, 0},
};

// A random matrix, and its weights found code by code from the text of the format. The packed tensor ends with its allocation,
// at an odd address: reading beyond it, or relying on alignment, shows.
struct Matrix {
  const Case& c;
  long out, in, group;  // columns that share a scale; 0: all
  std::vector<uint8_t> memory, magnitude;
  std::vector<float> table;
  std::vector<uint16_t> scales;
  std::vector<double> dense;
  vq::Tables w;

  Matrix(const Case& given, long rows, long columns, unsigned seed, long shared = 0)
      : c(given), out(rows), in(columns), group(shared) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const bool e8p = c.bits == 16;
    const long vectors = (in + c.dim - 1) / c.dim, codes = vectors * c.parts, fold = c.bits == 1 || c.bits == 3 ? 4 : c.bits == 2 ? 2 : 1;
    const long units = (codes + fold - 1) / fold, padded = (out + 7) / 8 * 8, entries = c.entries ? c.entries : 1L << c.bits;
    const int width = c.beside ? c.dim / c.parts : c.dim;
    memory.assign(1 + 64 + units * padded * fold * c.bits / 8, 0);
    memory.shrink_to_fit();
    uint8_t* head = memory.data() + 1;
    std::memcpy(head, "VQPK", 4);
    const auto put = [&](int at, uint32_t value, int bytes) { std::memcpy(head + at, &value, bytes); };
    put(4, 1, 2);
    put(6, 4, 2);
    put(8, static_cast<uint32_t>(out), 4);
    put(12, static_cast<uint32_t>(in), 4);
    put(16, static_cast<uint32_t>(c.bits), 2);
    put(18, static_cast<uint32_t>(c.dim), 2);
    put(24, e8p ? 2 : 0, 2);
    put(26, static_cast<uint32_t>(c.parts), 2);
    put(50, static_cast<uint32_t>(group), 2);
    const float step = 1.1f;
    if (e8p) std::memcpy(head + 44, &step, 4);
    std::vector<int> all(padded * units * fold);
    for (long r = 0; r < out; ++r)
      for (long j = 0; j < codes; ++j) all[r * units * fold + j] = static_cast<int>(random() % entries);
    pack(head + 64, all, padded, units, fold);
    if (e8p) {
      patterns(random);
    } else {
      table.resize(c.parts * entries * width);
      for (auto& v : table) v = normal(random);
      if (std::strcmp(c.name, "levels8") == 0)
        for (long i = 0; i < entries; ++i) table[i] = 0.02f * static_cast<float>(i) - 1.7f;
    }
    w = vq::view_tables(head, static_cast<long>(memory.size()) - 1, e8p ? static_cast<const void*>(magnitude.data()) : table.data(),
                        e8p ? 0 : c.parts, e8p ? 256 : entries, e8p ? 8 : width);
    dense.assign(out * in, 0.0);
    for (long r = 0; r < out; ++r)
      for (long j = 0; j < codes; ++j) {
        const long vector = j / c.parts, part = j % c.parts, code = all[r * units * fold + j];
        for (int i = 0; i < width; ++i) {
          const long column = vector * c.dim + (c.beside ? part * width : 0) + i;
          if (column < in) dense[r * in + column] += e8p ? point(static_cast<int>(code), i) * step : table[(part * entries + code) * width + i];
        }
      }
    for (long r = 0; r < out * groups(); ++r)  // 1/2 to 2; of groups of columns from 1/16 on, negative ones too
      scales.push_back(static_cast<uint16_t>(group ? 0x2c00 + random() % 5120 + random() % 2 * 0x8000 : 0x3800 + random() % 2048));
    scales.shrink_to_fit();
  }

  long groups() const { return group ? (in + group - 1) / group : 1; }

  double scale(long r, long column) const {
    const int half = scales[r * groups() + (group ? column / group : 0)];
    return std::ldexp(half >> 15 ? -1.0 : 1.0, (half >> 10 & 31) - 15) * (1.0 + (half & 1023) / 1024.0);
  }

  void patterns(std::mt19937& random) {
    for (int p = 0; p < 256; ++p) {
      int odd = 0;
      for (int i = 0; i < 8; ++i) {
        const int digit = static_cast<int>(random() % 3);
        odd ^= digit & 1;
        magnitude.push_back(static_cast<uint8_t>(i == 7 && odd ? 3 - digit : 4 + digit));
      }
    }
  }

  double point(int code, int i) const {
    const int digits[3] = {4, 5, 6};
    int negative = 0, sum = 0;
    for (int k = 0; k < 8; ++k) {
      const int value = magnitude[(code & 255) * 8 + k];
      sum += (value < 4 ? 7 - value : value) - digits[0];
      if (k < 7) negative += code >> (8 + k) & 1;
    }
    const int value = magnitude[(code & 255) * 8 + i];
    const double size = (value < 4 ? 7 - value : value) - 3.5;
    const bool minus = i < 7 ? code >> (8 + i) & 1 : (negative + sum) % 2;
    return (minus ? -size : size) + (code >> 15 ? 0.25 : -0.25);
  }

  // Rows of a panel and their units, as docs/format.md orders them.
  void pack(uint8_t* to, const std::vector<int>& all, long padded, long units, long fold) const {
    for (long first = 0; first < padded; first += 64) {
      const long rows = std::min(64L, padded - first);
      for (long u = 0; u < units; ++u) {
        const auto code = [&](long r, long k) { return all[((first + r) * units + u) * fold + k]; };
        const auto nibbles = [&](auto value) {
          for (long r = 0; r < rows / 2; ++r) *to++ = static_cast<uint8_t>(value(r) | value(r + rows / 2) << 4);
        };
        const auto fields = [&](int bits, auto value) {
          for (long i = 0; i < rows * bits; ++i) to[i / 8] = static_cast<uint8_t>(to[i / 8] | (value(i / bits) >> (i % bits) & 1) << i % 8);
          to += rows * bits / 8;
        };
        if (c.bits == 3) {
          for (long r = 0; r < rows; ++r)
            *to++ = static_cast<uint8_t>((code(r, 0) & 3) + 4 * (code(r, 1) & 3) + 16 * (code(r, 2) & 3) + 64 * (code(r, 3) & 3));
          nibbles([&](long r) { return (code(r, 0) >> 2) + 2 * (code(r, 1) >> 2) + 4 * (code(r, 2) >> 2) + 8 * (code(r, 3) >> 2); });
        } else if (c.bits <= 4) {
          nibbles([&](long r) {
            int value = 0;
            for (long k = 0; k < fold; ++k) value |= code(r, k) << (k * c.bits);
            return value;
          });
        } else if (c.bits <= 8) {
          fields(c.bits, [&](long r) { return code(r, 0); });
        } else {
          for (long r = 0; r < rows; ++r) *to++ = static_cast<uint8_t>(code(r, 0));
          fields(c.bits - 8, [&](long r) { return code(r, 0) >> 8; });
        }
      }
    }
  }

  // Relative error (root mean square) of products with x.
  double error(const std::vector<float>& x, const std::vector<float>& y, long rows) const {
    double square = 0.0, off = 0.0;
    for (long i = 0; i < rows; ++i)
      for (long r = 0; r < out; ++r) {
        double sum = 0.0;
        for (long k = 0; k < in; ++k) sum += dense[r * in + k] * x[i * in + k] * scale(r, k);
        square += sum * sum;
        off += (sum - y[i * out + r]) * (sum - y[i * out + r]);
      }
    return std::sqrt(off / square);
  }
};

// Normal numbers, with the largest ones at the ends.
std::vector<float> inputs(long rows, long in, bool same_sign) {
  std::mt19937 random(static_cast<unsigned>(rows * in));
  std::normal_distribution<float> normal;
  std::vector<float> x(rows * in);
  for (auto& v : x) v = same_sign ? 3.0f : normal(random);
  return x;
}

struct Wide {
  const char* name;
  const vq::WideKernels* kernels;
};

std::vector<Wide> wide_sets() {
  std::vector<Wide> found{{"portable", &vq::portable_wide}};
#if VQ_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) found.push_back({"avx2", &vq::avx2_wide});
  if (VQ_EMULATED ? avx2 : vq::best_isa() == vq::Isa::avx512) found.push_back({"avx512", &vq::avx512_wide});
#endif
#if VQ_NEON
  static const vq::WideKernels neon = [] {
    vq::WideKernels k = vq::portable_wide;
    vq::use_neon(&k);
    return k;
  }();
  found.push_back({"neon", &neon});
#endif
  return found;
}

void many_rows(const Matrix& m, const std::string& name) {
  for (bool same_sign : {false, true})
    for (long rows : {1L, 7L}) {
      const std::vector<float> x = inputs(rows, m.in, same_sign);
      std::vector<float> first;
      for (const Wide& set : wide_sets()) {
        std::vector<float> y(rows * m.out, -1.0f);
        vq::tables_wide(*set.kernels, x.data(), rows, m.in, m.w, m.scales.data(), y.data(), 1);
        if (first.empty()) first = y;
        const std::string what = std::string(set.name) + " many rows " + name + " rows " + std::to_string(rows);
        if (!same_sign) expect(m.error(x, y, rows) < 6e-4, what);
        expect(std::memcmp(first.data(), y.data(), y.size() * 4) == 0, what + " bits");
      }
    }
}

void few_rows(const Matrix& m, const std::string& name) {
  const long rows = 2;
  const std::vector<float> x = inputs(rows, m.in, false);
  std::vector<std::string> sets{"portable"};
  if (vq::best_isa() >= vq::Isa::avx2) sets.push_back("avx2");
  if (vq::best_isa() == vq::Isa::neon) sets.push_back("neon");
  for (const auto& set : sets)
    for (int mode = 0; mode < 3; ++mode) {
      vq::set_isa(set);
      std::vector<float> y(rows * m.out);
      for (long i = 0; i < rows; ++i)
        vq::tables_linear(x.data() + i * m.in, 1, m.w, m.scales.data(), nullptr, nullptr, static_cast<vq::TableMode>(mode), y.data() + i * m.out, 1);
      const double bound[] = {3e-6, 2e-2, 6e-4};
      expect(m.error(x, y, rows) < bound[mode], set + " one row " + name + " mode " + std::to_string(mode));
    }
}

#if VQ_X86
std::vector<float> padded(const std::vector<float>& x, long rows, long in, long stride) {
  std::vector<float> wide(rows * stride, 0.0f);
  for (long i = 0; i < rows; ++i) std::copy_n(x.data() + i * in, in, wide.data() + i * stride);
  return wide;
}

void bytes(const Matrix& m, const std::string& name) {
  if (!(VQ_EMULATED ? vq::best_isa() >= vq::Isa::avx2 : vq::best_isa() == vq::Isa::avx512) || !vq::bytes_can(m.w)) return;
  const long stride = m.in + m.c.dim + 64;
  std::vector<float> x = inputs(1, m.in, false);
  vq::set_isa("avx2");
  for (vq::TableMode mode : {vq::TableMode::int8, vq::TableMode::int15}) {
    for (bool finite : {true, false}) {
      std::vector<float> given = padded(x, 1, m.in, stride), y(m.out), other(m.out);
      if (!finite) given[m.in / 2] = std::nanf("");
      vq::tables_bytes(vq::avx512_bytes, vq::avx2_tables, given.data(), 1, stride, m.w, m.scales.data(), mode, y.data(), 1);
      const std::string what = "avx512 bytes " + name + " mode " + std::to_string(static_cast<int>(mode));
      if (!finite) {
        expect(std::all_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }), what + " NaN");
      } else if (m.w.magnitude) {
        vq::tables_linear(x.data(), 1, m.w, m.scales.data(), nullptr, nullptr, mode, other.data(), 1);
        expect(std::memcmp(y.data(), other.data(), y.size() * 4) == 0, what + " bits");
      } else {
        expect(m.error(x, y, 1) < 4e-4, what);
      }
    }
  }
}

void nibbles(const Matrix& m, const std::string& name) {
  if (!(VQ_EMULATED ? vq::best_isa() >= vq::Isa::avx2 : vq::best_isa() == vq::Isa::avx512) || m.c.bits > 4 || m.c.bits == 3 || m.out < 64) return;
  vq::TablesKernels k = vq::avx2_tables;
  vq::use_avx512(&k);
  const std::vector<float> x = padded(inputs(1, m.in, false), 1, m.in, m.in + 64);
  for (long block : {8L, 16L}) {
    std::vector<int8_t> lut(m.w.units * 32);
    std::vector<float> scale((m.w.units + block - 1) / block);
    k.integer_lut(m.w, x.data(), block, lut.data(), scale.data());
    float y[64], other[64];
    k.nibbles(m.w.panel(0), m.w.units, block, lut.data(), scale.data(), y);
    vq::avx2_tables.nibbles(m.w.panel(0), m.w.units, block, lut.data(), scale.data(), other);
    expect(std::memcmp(y, other, sizeof y) == 0, "avx512 nibbles " + name + " bits");
  }
}
#endif

void decoding(const Matrix& m, const std::string& name) {
  const long first = m.out / 3, rows = m.out - first;
  std::vector<float> values(rows * m.in), row(m.in);
  vq::decode_tables(m.w, first, rows, values.data(), 1);
  bool same = true;
  for (long i = 0; i < rows * m.in; ++i) same = same && std::fabs(values[i] - m.dense[first * m.in + i]) < 1e-5;
  expect(same, "decode " + name);
  const int64_t last = m.out - 1;
  vq::gather_tables(m.w, &last, 1, row.data(), 1);
  expect(std::memcmp(row.data(), values.data() + (rows - 1) * m.in, m.in * 4) == 0, "gather " + name);
}

// Columns that share a scale: as few as there may be, and another number.
std::vector<long> scale_groups(const Case& c) {
  const long fold = c.bits == 1 || c.bits == 3 ? 4 : c.bits == 2 ? 2 : 1;
  long least = 32;
  while (least % c.dim || least / c.dim * c.parts % fold) least += 32;
  return {least, 3 * least};
}

void everything(const Matrix& m) {
  std::string name = std::string(m.c.name) + " " + std::to_string(m.out) + "x" + std::to_string(m.in);
  if (m.group) name += " group " + std::to_string(m.group);
  few_rows(m, name);
  many_rows(m, name);
#if VQ_X86
  bytes(m, name);
#endif
  if (m.group) return;  // scales have no part in what follows
  decoding(m, name);
#if VQ_X86
  nibbles(m, name);
#endif
}

void refused() {
  for (long group : {1L, 16L, 48L, 80L}) {
    bool thrown = false;
    try {
      Matrix(cases[11], 8, 64, 1, group);  // kmeans4x8
    } catch (const std::invalid_argument&) {
      thrown = true;
    }
    expect(thrown, "refused group " + std::to_string(group));
  }
}

}  // namespace

int main() {
  const long shapes[][2] = {{70, 37}, {64, 300}, {3, 16}, {200, 130}, {128, 600}};
  const long used = VQ_QUICK ? 2 : 5;
  for (long s = 0; s < used; ++s)
    for (const Case& c : cases) {
      everything(Matrix(c, shapes[s][0], shapes[s][1], static_cast<unsigned>(s + 1)));
      for (long group : scale_groups(c))
        if (s % 2 || shapes[s][1] < 2 * group)  // half of them are enough
          everything(Matrix(c, shapes[s][0], shapes[s][1], static_cast<unsigned>(s + 1), group));
    }
  refused();
  std::printf("tables: %d checks, %d failures\n", checks, failures);
  return failures != 0;
}
