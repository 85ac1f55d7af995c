// The integer kernels of trellises whose values stand in a table, of every instruction set, against weights read bit by bit.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "trellis_matrix.h"
#include "vq/cpu.h"
#include "vq/steps.h"
#include "vq/tables_wide.h"

namespace {

struct Set {
  const char* name;
  const vq::StepKernels* steps;
  const vq::WideKernels* wide;
};

std::vector<Set> sets() {
  std::vector<Set> found{{"portable", &vq::portable_steps, &vq::portable_wide}};
#if VQ_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) found.push_back({"avx2", &vq::avx2_steps, &vq::avx2_wide});
  if (VQ_EMULATED ? avx2 : vq::best_isa() == vq::Isa::avx512) found.push_back({"avx512", &vq::avx512_steps, &vq::avx512_wide});
#endif
  return found;
}

enum class Values { random, mul1, mad1, zero };

std::vector<float> values_of(Values kind, int memory, int symbols, std::mt19937& random) {
  std::vector<float> table(static_cast<size_t>(symbols) << memory, 0.0f);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < table.size() && kind != Values::zero; ++i) {
    const uint32_t s = static_cast<uint32_t>(i), p = kind == Values::mul1 ? s * 0x83dcd12du : s * 34038481u + 76625530u;
    const int sum = static_cast<int>((p & 255) + (p >> 8 & 255) + (p >> 16 & 255) + (p >> 24)) - 510;
    table[i] = kind == Values::random ? normal(random) : static_cast<float>(sum / 147.8) * 0.97f;
  }
  return table;
}

// Decoded blocks are the values in units, rounded, at the places that the kernel names.
void blocks(const Set& set, const Matrix& m, const vq::Steps& steps, const std::string& name) {
  const long count = (m.w.groups + 1) / 2;
  std::vector<int16_t> block(count * 2 * vq::kStepHalf, 0);
  bool same = true;
  std::vector<int> seen(64, 0);
  for (int place = 0; place < 64; ++place) ++seen[set.steps->row_at(steps, place)];
  for (int n : seen) same = same && n == 1;
  for (long band = 0; band < m.w.bands; ++band) {
    set.steps->decode(m.w, steps, band, 0, 1, block.data());  // one, then the rest of them
    if (count > 1) set.steps->decode(m.w, steps, band, 1, count - 1, block.data() + 2 * vq::kStepHalf);
    for (int place = 0; place < 64; ++place)
      for (long c = 0; c < m.w.in; ++c) {
        const long row = band * 64 + set.steps->row_at(steps, place);
        const int16_t found = block[c / 64 * 2 * vq::kStepHalf + place / 32 * vq::kStepHalf + c % 64 / 2 * 64 + place % 32 * 2 + c % 2];
        const float exact = steps.unit == 0.0f ? 0.0f : m.value(row, c) / steps.unit;
        same = same && std::fabs(static_cast<float>(found) - exact) <= (steps.sums ? 1e-3f : 0.501f);
      }
  }
  expect(same, set.name + (" blocks " + name));
}

void matrix(long out, long in, int step_bits, int memory, int symbols, Values kind) {
  std::mt19937 random(static_cast<unsigned>(step_bits * memory + symbols));
  const std::vector<float> table = values_of(kind, memory, symbols, random);
  const Matrix m(out, in, step_bits, memory, symbols, table.data(), 7);
  const std::string name = std::to_string(step_bits) + " bits a step, memory " + std::to_string(memory) + ", " +
                           std::to_string(symbols) + " values, kind " + std::to_string(static_cast<int>(kind));
  const auto steps = vq::steps_of(m.w);
  expect(steps && (steps->sums != nullptr) == (kind == Values::mul1 || kind == Values::mad1), "forms of " + name);
  expect(steps == vq::steps_of(m.w), "kept forms of " + name);
  std::vector<uint16_t> scales;
  for (long r = 0; r < out; ++r) scales.push_back(static_cast<uint16_t>(0x3800 + random() % 2048));  // 1/2 to 2
  std::normal_distribution<float> normal;
  for (long rows : {1L, 3L, 9L}) {
    std::vector<float> x(rows * in), first;
    for (auto& v : x) v = normal(random);
    if (rows == 3) std::fill(x.begin(), x.end(), -2.0f);  // sums as large as they can be
    for (const Set& set : sets()) {
      if (rows == 1) blocks(set, m, *steps, name);
      std::vector<float> y(rows * out, -1.0f);
      vq::steps_linear(*set.steps, *set.wide, x.data(), rows, in, m.w, *steps, scales.data(), y.data(), 1);
      if (first.empty()) first = y;
      expect(std::memcmp(first.data(), y.data(), y.size() * 4) == 0, set.name + (" bits " + name));
    }
    double square = 0.0, off = 0.0, norm = 0.0;
    for (long i = 0; i < rows; ++i)
      for (long r = 0; r < out; ++r) {
        double sum = 0.0;
        const double scale = std::ldexp(1.0 + (scales[r] & 1023) / 1024.0, (scales[r] >> 10) - 15);
        for (long c = 0; c < in; ++c) {
          sum += static_cast<double>(m.value(r, c)) * x[i * in + c];
          norm += std::pow(m.value(r, c) * x[i * in + c] * scale, 2);
        }
        square += sum * sum;
        off += std::pow(sum * scale - first[i * out + r], 2);
      }
    // relative to what independent signs would give; rounding of few values adds up where all x are equal
    expect(off <= (rows == 3 ? 1e-5 : 4e-7) * norm, "product " + name + " rows " + std::to_string(rows));
    expect(kind == Values::zero || square > 0.0, "something to multiply");
  }
}

}  // namespace

int main() {
  for (int symbols : {1, 2})
    for (int step_bits = 1; step_bits <= 8; ++step_bits)
      for (int memory : {8, 9, 12, 16}) {
        if (memory < step_bits || (VQ_QUICK && memory == 16)) continue;
        const bool wide = (step_bits + memory) % 2;
        matrix(wide ? 70 : 3, wide ? 63 : 300, step_bits, memory, symbols, Values::random);
        if (symbols == 2) continue;
        matrix(70, wide ? 37 : 130, step_bits, memory, symbols, Values::mul1);
        matrix(70, wide ? 130 : 37, step_bits, memory, symbols, Values::mad1);
      }
  matrix(70, 63, 2, 12, 1, Values::zero);
  std::vector<float> table(4096, 1.0f);
  table[5] = NAN;
  expect(!vq::steps_of(Matrix(64, 4, 2, 12, 1, table.data(), 1).w), "values that are not finite");
  std::printf("steps: %d checks, %d failures\n", checks, failures);
  return failures != 0;
}
