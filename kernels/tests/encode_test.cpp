// The forward pass of the trellis encoder, of every instruction set, against the recursion of vq/trellis.h state by state.
#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "vq/cpu.h"
#include "vq/trellis.h"

namespace {

struct Set {
  std::string name;
  vq::TrellisForward forward;
  int lanes;
};

std::vector<Set> sets(int step_bits, int symbols, long groups) {
  std::vector<Set> found;
  for (int lanes = 2; lanes <= vq::portable::trellis_lanes; lanes *= 2)
    found.push_back({"portable " + std::to_string(lanes), vq::portable::trellis_forward(step_bits, lanes), lanes});
#if VQ_X86
  const bool avx2 = __builtin_cpu_supports("avx2");
  if (avx2) found.push_back({"avx2", vq::avx2::trellis_forward(step_bits, symbols), vq::avx2::trellis_lanes});
  if (VQ_EMULATED ? avx2 : vq::best_isa() == vq::Isa::avx512)
    found.push_back({"avx512", vq::avx512::trellis_forward(step_bits, symbols), vq::avx512::trellis_lanes});
#endif
  found.erase(std::remove_if(found.begin(), found.end(), [&](const Set& s) { return s.lanes > groups; }), found.end());
  return found;
}

int clamp(int value, int low, int high) { return std::max(low, std::min(high, value)); }

// Squared error of one value and a level, rounded to 1/2048 square units.
int error(int x, int level) {
  const int e = clamp(x - level, -32768, 32767);
  return (e * e + (1 << 14)) >> 15;
}

void check(const vq::TrellisShape& shape, std::mt19937& random) {
  const int branches = 1 << shape.step_bits, symbols = shape.symbols;
  const long groups = 1L << (shape.memory - shape.step_bits);
  auto numbers = [&](size_t count, int low, int high) {
    std::uniform_int_distribution<int> any(low, high);
    std::vector<int> out(count);
    for (int& v : out) v = any(random);
    return out;
  };
  // far values make errors saturate, and equal costs occur
  const std::vector<int> x = numbers(shape.steps * symbols, -32767, 32767);
  const std::vector<int> level = numbers(static_cast<size_t>(symbols) << shape.memory, -32767, 32767);
  std::vector<int> before = numbers(groups, 0, 3000);
  std::vector<std::vector<int>> wanted{before};
  std::vector<int> floors{*std::min_element(before.begin(), before.end())};
  for (int t = 0; t < shape.steps; ++t) {
    std::vector<int> after(groups, 65535);
    for (long g = 0; g < groups; ++g) {
      for (long p = 0; p < branches; ++p) {
        const long state = p * groups + g;
        int cost = before[state >> shape.step_bits];
        for (int v = 0; v < symbols; ++v) cost += error(x[t * symbols + v], level[state * symbols + v]);
        after[g] = std::min(after[g], cost);
      }
      after[g] -= floors[t];
    }
    floors.push_back(*std::min_element(after.begin(), after.end()));
    wanted.push_back(before = after);
  }
  for (const Set& set : sets(shape.step_bits, symbols, groups)) {
    std::vector<int16_t> table(level.size()), values(x.begin(), x.end());
    for (long g = 0; g < groups; ++g)
      for (long p = 0; p < branches; ++p)
        for (int v = 0; v < symbols; ++v)
          table[((g / set.lanes * branches + p) * symbols + v) * set.lanes + g % set.lanes] =
              static_cast<int16_t>(level[(p * groups + g) * symbols + v]);
    std::vector<uint16_t> minima((shape.steps + 1) * groups), found(shape.steps + 1);
    std::copy(wanted[0].begin(), wanted[0].end(), minima.begin());
    found[0] = static_cast<uint16_t>(floors[0]);
    set.forward(shape, values.data(), shape.steps, table.data(), minima.data(), found.data());
    bool same = std::equal(found.begin(), found.end(), floors.begin());
    for (int t = 0; t <= shape.steps; ++t)
      same = same && std::equal(wanted[t].begin(), wanted[t].end(), minima.begin() + t * groups);
    expect(same, set.name + " bits " + std::to_string(shape.step_bits) + " memory " + std::to_string(shape.memory) +
                     " symbols " + std::to_string(symbols));
  }
}

}  // namespace

int main() {
  std::mt19937 random(7);
  for (int symbols : {1, 2})
    for (int step_bits = 1; step_bits <= 8; ++step_bits)
      for (int memory = step_bits + 1; memory <= (VQ_QUICK ? 10 : 14); ++memory)
        check({memory, step_bits, symbols, 9}, random);
  expect(!vq::portable::trellis_forward(9, 16) && !vq::portable::trellis_forward(2, 3), "shapes that are not served");
  std::printf("encode: %d checks, %d failures\n", checks, failures);
  return failures != 0;
}
