// Trellises whose values stand in a table, in integers: the forms of the table, and the walk over bands.
#include "vq/steps.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>
#include <mutex>

#include "vq/cpu.h"
#include "vq/tables_wide.h"
#include "vq/threads.h"
#include "vq/wide_inputs.h"

namespace vq {
namespace {

constexpr int kLevelTop = 8191;    // largest magnitude of a value as an integer
constexpr int kTwoSteps = 14;      // bits of the largest index of two steps: 64 KiB
constexpr size_t kKept = 32 << 20;  // bytes of tables whose forms are kept
constexpr long kManyRows = 8;      // rows of x from which on four blocks are decoded before they are multiplied

// The unit of values that are byte sums, to a part in a million of the largest; 0 where they are not.
float unit_of(const Steps& s, const ByteSum& sum) {
  const uint32_t states = 1u << s.memory;
  uint32_t far = 0;
  for (uint32_t i = 0; i < states; ++i)
    if (std::abs(sum(i)) > std::abs(sum(far))) far = i;
  const float unit = s.values[far] / static_cast<float>(sum(far)), most = 1e-6f * std::fabs(s.values[far]);
  if (s.symbols != 1 || !(most > 0.0f) || !std::isfinite(unit)) return 0.0f;
  for (uint32_t i = 0; i < states; ++i)
    if (!(std::fabs(s.values[i] - unit * static_cast<float>(sum(i))) <= most)) return 0.0f;
  return unit;
}

// Values as integers, (2^memory, symbols).
std::vector<int16_t> integers_of(Steps& s) {
  std::vector<int16_t> found(s.values.size());
  for (const ByteSum& sum : kByteSums) {
    s.unit = unit_of(s, sum);
    if (s.unit == 0.0f) continue;
    s.sums = &sum;
    for (uint32_t i = 0; i < found.size(); ++i) found[i] = static_cast<int16_t>(sum(i));
    s.top = kSumMiddle;
    return found;
  }
  float most = 0.0f;
  for (float v : s.values) most = std::max(most, std::fabs(v));
  s.top = kLevelTop;
  s.unit = most > 1e-30f ? most / static_cast<float>(kLevelTop) : 0.0f;
  if (s.unit != 0.0f)
    for (size_t i = 0; i < found.size(); ++i)
      found[i] = static_cast<int16_t>((s.values[i] / s.unit + 12582912.0f) - 12582912.0f);  // half to even
  return found;
}

// Entries of one step, or of two where these are few enough to stay close to the first cache.
void list_entries(Steps& s, const std::vector<int16_t>& integer) {
  const bool join = s.symbols == 1 && !s.sums && s.memory + s.step_bits <= kTwoSteps;
  s.twos = s.symbols == 2 || join;
  s.window = s.memory + (join ? s.step_bits : 0);
  s.stride = s.step_bits * (join ? 2 : 1);
  s.entry.assign((static_cast<size_t>(s.twos ? 2 : 1) << s.window) + 8, 0);
  if (!join) {
    std::copy(integer.begin(), integer.end(), s.entry.begin());
    return;
  }
  const uint32_t mask = (1u << s.memory) - 1;
  for (uint32_t i = 0; i < 1u << s.window; ++i) {
    s.entry[2 * i] = integer[i >> s.step_bits];
    s.entry[2 * i + 1] = integer[i & mask];
  }
}

bool finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

std::shared_ptr<const Steps> make(const Trellis& w) {
  auto s = std::make_shared<Steps>();
  const float* table = static_cast<const float*>(w.table);
  s->values.assign(table, table + (static_cast<size_t>(w.symbols) << w.memory));
  s->step_bits = w.step_bits;
  s->memory = w.memory;
  s->symbols = w.symbols;
  if (finite(s->values)) list_entries(*s, integers_of(*s));
  return s;
}

size_t bytes_of(const Steps& s) { return s.values.size() * sizeof(float) + s.entry.size() * sizeof(int16_t); }

bool same(const Steps& s, const Trellis& w) {
  return s.memory == w.memory && s.symbols == w.symbols && s.step_bits == w.step_bits &&
         std::memcmp(s.values.data(), w.table, s.values.size() * sizeof(float)) == 0;
}

// Sums of a band to floats: 64 rows, cut at the end of the matrix.
void finish(const StepKernels& k, const Trellis& w, const Steps& steps, long band, const WideInputs& inputs, const float* totals,
            const uint16_t* scales, float* y) {
  const long first = band * 64, count = std::min(64L, w.out - first);
  int place[64];
  for (int i = 0; i < 64; ++i) place[k.row_at(steps, i)] = i;
  for (long i = 0; i < inputs.rows; ++i)
    for (long r = 0; r < count; ++r)
      y[i * w.out + first + r] = totals[i * 64 + place[r]] * steps.unit * inputs.unit[i] * from_half(scales[first + r]);
}

}  // namespace

std::shared_ptr<const Steps> steps_of(const Trellis& w) {
  if (w.hash || (w.symbols != 1 && w.symbols != 2) || w.step_bits > 8) return nullptr;
  static std::mutex mutex;
  static auto* kept = new std::list<std::shared_ptr<const Steps>>;  // the last one used first
  static size_t bytes = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = std::find_if(kept->begin(), kept->end(), [&](const auto& s) { return same(*s, w); });
  if (found == kept->end()) {
    kept->push_front(make(w));
    bytes += bytes_of(*kept->front());
    for (; bytes > kKept && kept->size() > 1; kept->pop_back()) bytes -= bytes_of(*kept->back());
  } else {
    kept->splice(kept->begin(), *kept, found);
  }
  return kept->front()->entry.empty() ? nullptr : kept->front();
}

void steps_linear(const StepKernels& k, const WideKernels& wide, const float* x, long rows, long stride, const Trellis& w,
                  const Steps& steps, const uint16_t* scales, float* y, int threads) {
  const long blocks = (w.groups + 1) / 2, group = rows < kManyRows ? 1 : 4;
  const WideInputs inputs(wide, {w.in, 2 * kStepPairs, blocks, group, steps.top}, x, rows, stride, threads);
  parallel_for(w.bands, std::max(1L, w.bands / (16L * std::max(1, threads))), threads, [&](long begin, long end) {
    Buffer<int16_t> block(group * 2 * kStepHalf);
    Buffer<float> totals(rows * 64);
    std::memset(block.get(), 0, group * 2 * kStepHalf * sizeof(int16_t));
    for (long band = begin; band < end; ++band) {
      std::fill(totals.get(), totals.get() + rows * 64, 0.0f);
      for (long b = 0; b < blocks; b += group) {
        const long count = std::min(group, blocks - b);
        k.decode(w, steps, band, b, count, block.get());
        wide.multiply(block.get(), count, kStepPairs, inputs.row_of(b, 0), rows, totals.get());
      }
      finish(k, w, steps, band, inputs, totals.get(), scales, y);
    }
  });
}

const StepKernels& step_kernels() {
#if VQ_X86
  if (isa() == Isa::avx512) return avx512_steps;
  if (isa() == Isa::avx2) return avx2_steps;
#endif
  return portable_steps;
}

const char* steps_name(const Trellis& w) {
  const auto steps = steps_of(w);
  if (!steps) return nullptr;
  if (steps->sums) return "byte sums of states as integers";
  if (steps->symbols == 2) return "values of a step as 14-bit integers";
  return steps->twos ? "values of two steps at once as 14-bit integers" : "values of a step as 14-bit integers";
}

}  // namespace vq
