// The packed linear kernels of every instruction set against a reference written from docs/format.md, bit by bit.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "trellis_matrix.h"
#include "vq/cpu.h"
#include "vq/linear.h"

namespace {

struct Set {
  const char* name;
  const vq::LinearKernels* kernels;
};

std::vector<Set> sets() {
  std::vector<Set> found{{"portable", &vq::portable_linear}};
#if VQ_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) found.push_back({"avx2", &vq::avx2_linear});
#if VQ_EMULATED
  if (avx2) found.push_back({"avxvnni (emulated)", &vq::avxvnni_linear});
  if (avx2) found.push_back({"avx512 (emulated)", &vq::avx512_linear});
#else
  if (__builtin_cpu_supports("avxvnni")) found.push_back({"avxvnni", &vq::avxvnni_linear});
  if (vq::best_isa() == vq::Isa::avx512) found.push_back({"avx512", &vq::avx512_linear});
#endif
#elif VQ_NEON
  found.push_back({"neon", &vq::neon_linear});
  if (vq::has_dot_product()) found.push_back({"neon with dot product", &vq::neondot_linear});
#endif
  return found;
}

std::vector<int> dense(const Matrix& m) {
  std::vector<int> all(m.w.bands * 64 * m.w.in);
  for (long r = 0; r < m.w.bands * 64; ++r)
    for (long c = 0; c < m.w.in; ++c) all[r * m.w.in + c] = m.at(r, c);
  return all;
}

struct Inputs {
  std::vector<int8_t> bytes;
  std::vector<int32_t> sums;
  std::vector<int16_t> wide;
  vq::Activations view{};

  // Of any size up to the largest, all of the largest, or mostly small: what sums may overflow differs.
  enum Kind { any, extreme, mostly_small };

  Inputs(long rows, long in, int planes, unsigned seed, Kind kind) {
    std::mt19937 random(seed);
    const long stride = (in + 31) / 32 * 32 + 64;
    bytes.assign(rows * planes * stride, 0);
    sums.assign(rows * planes, 0);
    wide.assign(rows * stride, 0);
    for (long i = 0; i < rows; ++i)
      for (long c = 0; c < in; ++c) {
        const int top = planes == 2 ? 16319 : 127;
        const int drawn = static_cast<int>(random() % (2 * top + 1)) - top;
        const int value = kind == extreme        ? (random() % 2 ? top : -top)
                          : kind == mostly_small ? static_cast<int>(int64_t{drawn} * drawn * drawn / (top * top))
                                                 : drawn;
        const int low = planes == 2 ? ((value + 64) & 127) - 64 : value;
        wide[i * stride + c] = static_cast<int16_t>(value);
        const int part[2] = {planes == 2 ? (value - low) / 128 : value, low};
        for (int p = 0; p < planes; ++p) {
          bytes[(i * planes + p) * stride + c] = static_cast<int8_t>(part[p]);
          sums[i * planes + p] += part[p];
        }
      }
    view = {rows, planes, stride, bytes.data(), sums.data(), wide.data(), nullptr};
  }
};

void products(const Set& set, const Matrix& m, const std::string& name, Inputs::Kind usual) {
  const std::vector<int> weights = dense(m);
  const vq::Levels levels = vq::levels_of(m.w);
  std::vector<int8_t> pairs(2L << m.w.memory);
  for (uint32_t s = 0; s < 1u << m.w.memory; ++s) {
    const uint32_t product = (s << (16 - m.w.memory)) * m.w.constant;
    pairs[2 * s] = m.level[product >> 16 & 63];
    pairs[2 * s + 1] = m.level[product >> 8 & 63];
  }
  vq::Trellis w = m.w;
  w.pairs = pairs.data();
  struct Case {
    long rows;
    Inputs::Kind kind;
  };
  const Case cases[] = {{1, Inputs::any},          {1, Inputs::extreme}, {1, Inputs::mostly_small}, {2, Inputs::any},
                        {2, Inputs::mostly_small}, {3, usual},           {4, usual},                {5, usual},
                        {9, usual},                {16, usual}};
  for (int planes : {1, 2})
    for (const auto [rows, kind] : cases) {
      Inputs x(rows, w.in, planes, static_cast<unsigned>(rows), kind);
      const auto arrange = set.kernels->arrange;
      const long size = arrange ? arrange(w, levels, x.view, nullptr) : 0;
      std::vector<__int128> arranged(size / 16 + 2);  // and room for an address that 32 divides
      if (size) {
        void* at = arranged.data();
        size_t room = arranged.size() * 16;
        at = std::align(32, size, at, room);
        arrange(w, levels, x.view, at);
        x.view.arranged = at;
      }
      std::vector<int64_t> totals(rows * 64);
      for (long band = 0; band < w.bands; ++band) {
        set.kernels->dot(w, levels, band, x.view, totals.data());
        bool same = true;
        for (long i = 0; i < rows; ++i)
          for (long r = 0; r < 64 && band * 64 + r < w.out; ++r) {
            int64_t sum = 0;
            for (long c = 0; c < w.in; ++c) sum += int64_t{weights[(band * 64 + r) * w.in + c]} * x.wide[i * x.view.stride + c];
            same = same && sum == totals[i * 64 + r];
          }
        expect(same, set.name + (" dot " + name) + " rows " + std::to_string(rows) + " planes " + std::to_string(planes));
      }
    }
  const long width = w.groups * 32;
  std::vector<float> values(64 * width);
  for (long band = 0; band < w.bands; ++band) {
    set.kernels->decode(w, band, values.data(), width);
    bool same = true;
    for (long r = 0; r < 64; ++r)
      for (long c = 0; c < w.in; ++c)
        same = same && values[r * width + c] == static_cast<float>(weights[(band * 64 + r) * w.in + c]) * w.step;
    expect(same, set.name + (" decode " + name));
  }
}

// Constants of every kind that kernels tell apart, and more columns than sums of 32 bits can hold.
void corners(const Set& set) {
  for (int levels : {16, 32, 64})
    for (int constant : {0xffff, 0xd2c5, 0xd2c6, 0x8000}) {
      Matrix m(64, 63, 4, 12, levels, 63, 6);
      m.w.constant = static_cast<uint16_t>(constant);
      products(set, m, "constant " + std::to_string(constant) + ", " + std::to_string(levels) + " levels", Inputs::any);
    }
#if VQ_NEON
  const long in = 140000;
  Matrix m(64, in, 4, 12, 16, 127, 7);
  std::fill(m.level, m.level + 64, int8_t{127});
  const std::vector<int8_t> pairs(2L << m.w.memory, 127);
  vq::Trellis w = m.w;
  w.pairs = pairs.data();
  struct Case {
    long rows;
    int planes;
  };
  for (const auto [rows, planes] : {Case{1, 1}, Case{1, 2}, Case{3, 2}}) {
    Inputs x(rows, in, planes, 8, Inputs::any);
    std::fill(x.bytes.begin(), x.bytes.end(), int8_t{127});
    std::vector<__int128> arranged(rows * planes * w.groups * 2);
    if (set.kernels->arrange) set.kernels->arrange(w, vq::levels_of(w), x.view, arranged.data());
    x.view.arranged = arranged.data();
    std::vector<int64_t> totals(rows * 64);
    set.kernels->dot(w, vq::levels_of(w), 0, x.view, totals.data());
    const int64_t sum = int64_t{127 * 127} * in * (planes == 2 ? 129 : 1);
    const bool same = std::all_of(totals.begin(), totals.end(), [&](int64_t t) { return t == sum; });
    expect(same, set.name + (" dot of many columns, rows " + std::to_string(rows)) + " planes " + std::to_string(planes));
  }
#endif
}

// A table in place of the hash: values of every step, and products in float, against the same bits read one by one.
void tables(const Set& set, long out, long in, int step_bits, int memory, int symbols, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> table(static_cast<size_t>(symbols) << memory);
  for (auto& v : table) v = static_cast<float>(random()) / 4294967296.0f - 0.5f;
  const Matrix m(out, in, step_bits, memory, symbols, table.data(), seed);
  const auto at = [&](long row, long column) { return m.value(row, column); };
  const long rows = 3, stride = (in + 63) / 64 * 64, width = m.w.groups * 32;
  std::vector<float> x(rows * stride, 0.0f), room(rows * 512 + 8), values(64 * width);
  for (long i = 0; i < rows; ++i)
    for (long c = 0; c < in; ++c) x[i * stride + c] = static_cast<float>(random()) / 4294967296.0f - 0.5f;
  void* sums = room.data();
  size_t left = room.size() * 4;
  std::align(32, rows * 2048, sums, left);
  const std::string name = std::to_string(step_bits) + " bits a step, memory " + std::to_string(memory) + ", " +
                           std::to_string(symbols) + " values";
  for (long band = 0; band < m.w.bands; ++band) {
    expect(set.kernels->values_dot(m.w, band, x.data(), rows, stride, static_cast<float*>(sums)), set.name + (" serves " + name));
    set.kernels->decode(m.w, band, values.data(), width);
    double worst = 0.0;
    bool same = true;
    for (long r = 0; r < 64; ++r) {
      for (long c = 0; c < in; ++c) same = same && values[r * width + c] == at(band * 64 + r, c);
      for (long i = 0; i < rows; ++i) {
        double sum = 0.0;
        for (long c = 0; c < in; ++c) sum += static_cast<double>(at(band * 64 + r, c)) * x[i * stride + c];
        worst = std::max(worst, std::fabs(sum - static_cast<float*>(sums)[i * 64 + r]));
      }
    }
    expect(same, set.name + (" values " + name));
    expect(worst < 1e-5, set.name + (" product of values " + name));
  }
}

void rotations(const Set& set) {
  for (long n : {1L, 2L, 7L, 8L, 15L, 16L, 64L, 100L, 577L, 1536L}) {
    std::mt19937 random(static_cast<unsigned>(n));
    std::vector<float> x(n);
    for (auto& v : x) v = static_cast<float>(random()) / 4294967296.0f - 0.5f;
    std::vector<float> y(x);
    set.kernels->hadamard(y.data(), n);
    double worst = 0.0;
    long at = 0;
    for (long size = 1L << 20; size; size /= 2) {
      if (!(n & size)) continue;
      for (long i = 0; i < size; ++i) {
        double sum = 0.0;
        for (long j = 0; j < size; ++j) sum += (__builtin_popcountl(i & j) % 2 ? -1.0 : 1.0) * x[at + j];
        worst = std::max(worst, std::fabs(sum / std::sqrt(static_cast<double>(size)) - y[at + i]));
      }
      at += size;
    }
    expect(worst < 1e-5, set.name + (" hadamard " + std::to_string(n)));
    std::vector<float> other(x);
    vq::portable_linear.hadamard(other.data(), n);
    expect(std::memcmp(other.data(), y.data(), n * 4) == 0, set.name + (" hadamard bits " + std::to_string(n)));
  }
}

// Whether integers are products in float, rounded half to even.
bool rounds(const std::vector<float>& x, int planes, long stride, const int8_t* acts) {
  float largest = 0.0f;
  for (float v : x) largest = std::max(largest, std::fabs(v));
  const float factor = (planes == 2 ? 16319.0f : 127.0f) / largest;
  bool same = true;
  for (size_t i = 0; i < x.size(); ++i) {
    const volatile float product = x[i] * factor;
    const int value = planes == 2 ? 128 * acts[i] + acts[stride + i] : acts[i];
    same = same && value == static_cast<int>(std::nearbyint(static_cast<double>(product)));
  }
  return same;
}

void quantizations(const Set& set) {
  for (long n : {1L, 5L, 31L, 32L, 63L, 577L})
    for (int planes : {1, 2})
      for (int kind = 0; kind < 4; ++kind) {
        std::mt19937 random(static_cast<unsigned>(n));
        std::vector<float> x(n);
        for (auto& v : x) v = kind == 1 ? 0.0f : static_cast<float>(random()) / 4294967296.0f - 0.5f;
        if (kind == 2) x[n / 2] = std::nanf("");
        if (kind == 3) x[n - 1] = -INFINITY;
        const long stride = (n + 31) / 32 * 32 + 64;
        std::vector<int8_t> a(planes * stride, 7), b(planes * stride, 9);
        int32_t sums[4] = {1, 2, 3, 4};
        float unit[2] = {5.0f, 6.0f};
        set.kernels->quantize(x.data(), n, planes, stride, a.data(), sums, unit);
        if (kind == 0) expect(rounds(x, planes, stride, a.data()), set.name + (" quantize rounds " + std::to_string(n)));
        vq::portable_linear.quantize(x.data(), n, planes, stride, b.data(), sums + 2, unit + 1);
        const bool same = a == b && std::memcmp(sums, sums + 2, 4 * planes) == 0 && std::memcmp(unit, unit + 1, 4) == 0;
        expect(same, set.name + (" quantize " + std::to_string(n)) + " kind " + std::to_string(kind));
      }
}

}  // namespace

// That the set in use is the best of those that this machine can run.
void chosen([[maybe_unused]] const std::vector<Set>& all) {
#if !VQ_EMULATED
  expect(&vq::linear_kernels() == all.back().kernels, std::string("chosen kernels are not ") + all.back().name);
#endif
}

int main() {
  struct Shape {
    long out, in;
  };
  const std::vector<Set> all = sets();
  if (!std::getenv("VQ_ISA")) chosen(all);
  for (const Set& set : all) {
    rotations(set);
    quantizations(set);
    corners(set);
    for (int levels : {16, 32, 64})
      for (int top : {31, 127})
        for (int step_bits = 1; step_bits <= 8; ++step_bits)
          for (int memory : {9, 8 + step_bits, 12, 14, 16}) {
            if (VQ_QUICK && (levels + top + step_bits + memory) % 9) continue;
            const Shape shapes[] = {{1, 1}, {70, 63}, {3, 300}};
            const Shape shape = shapes[(levels + step_bits + memory) % 3];
            const Matrix m(shape.out, shape.in, step_bits, memory, levels, top, static_cast<unsigned>(step_bits * memory));
            products(set, m, std::to_string(levels) + " levels to " + std::to_string(top) + ", " + std::to_string(step_bits) +
                                 " bits a step, memory " + std::to_string(memory), top == 127 ? Inputs::extreme : Inputs::any);
          }
    products(set, Matrix(577, 63, 4, 12, 64, 125, 3), "577x63", Inputs::any);
    products(set, Matrix(64, 1300, 4, 12, 64, 127, 4), "64x1300", Inputs::extreme);
    products(set, Matrix(64, 1300, 6, 16, 16, 31, 5), "64x1300", Inputs::extreme);
    for (int symbols : {1, 2})
      for (int step_bits = 1; step_bits <= 8; ++step_bits)
        for (int memory : {9, 12, 16}) tables(set, 70, step_bits % 2 ? 63 : 300, step_bits, memory, symbols, static_cast<unsigned>(memory));
    std::printf("%s: %d checks so far, %d failures\n", set.name, checks, failures);
  }
  return failures != 0;
}
