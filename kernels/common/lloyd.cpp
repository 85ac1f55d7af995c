#include "vq/lloyd.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "vq/nearest.h"
#include "vq/threads.h"

namespace vq {
namespace {

constexpr long kBlock = 1 << 16;      // points between two accumulations
constexpr long kDistanceBlock = 4096;  // points of one partial sum

// One problem's slices of the arguments.
LloydArgs problem(const LloydArgs& a, long p) {
  LloydArgs own = a;
  const long masses = a.weight ? a.weights : 1;
  own.points += p * a.count * a.dim;
  own.table += p * a.entries * a.dim;
  if (a.weight) own.weight += p * a.count * a.weights;
  if (a.penalty) own.penalty += p * a.entries;
  if (a.codes) own.codes += p * a.count;
  own.total += p * a.entries * a.dim;
  own.mass += p * a.entries * masses;
  own.error += p * a.entries;
  own.members += p * a.entries;
  own.reach += p * a.entries;
  own.farthest += p * a.entries;
  return own;
}

// Adds the points [begin, end) whose codewords lie in [low, high).
template <int DIM, int WEIGHTS>
void accumulate(const LloydArgs& a, const int* codes, long begin, long end, int low, int high) {
  const long dim = DIM ? DIM : a.dim, weights = WEIGHTS == 2 ? dim : 1;
  for (long i = begin; i < end; ++i) {
    const int code = codes[i - begin];
    if (code < low || code >= high) continue;
    const float* x = a.points + i * dim;
    const float* c = a.table + code * dim;
    const float* w = WEIGHTS ? a.weight + i * weights : nullptr;
    double* total = a.total + code * dim;
    double* mass = a.mass + code * weights;
    double error = 0;
    for (long d = 0; d < dim; ++d) {
      const double weight = WEIGHTS == 2 ? w[d] : WEIGHTS ? w[0] : 1.0, off = (double)x[d] - c[d];
      total[d] += weight * x[d];
      error += weight * (off * off);
      if (WEIGHTS == 2) mass[d] += weight;
    }
    if (WEIGHTS != 2) mass[0] += WEIGHTS ? w[0] : 1.0;
    a.error[code] += error;
    ++a.members[code];
    if (error > a.reach[code]) {
      a.reach[code] = error;
      a.farthest[code] = i;
    }
  }
}

using Accumulate = void (*)(const LloydArgs&, const int*, long, long, int, int);

template <int WEIGHTS>
Accumulate pick(long dim) {
  switch (dim) {
    case 1: return accumulate<1, WEIGHTS>;
    case 2: return accumulate<2, WEIGHTS>;
    case 4: return accumulate<4, WEIGHTS>;
    case 8: return accumulate<8, WEIGHTS>;
    default: return accumulate<0, WEIGHTS>;
  }
}

// Cells of the points [begin, end).
class Search {
 public:
  explicit Search(const LloydArgs& a) : a_(a), own_(a.weight && a.weights > 1), shift_(a.dim) {
    const long most = std::min(kBlock, a.count);
    codes_.resize(most);
    if (a.weight && a.penalty && !own_) spread_.resize(most * a.dim);
    nearest_shift(a.table, a.entries, a.dim, shift_.data());
  }

  const int* run(long begin, long end, int threads) {
    const float* weight = own_ ? a_.weight + begin * a_.dim : nullptr;  // of a point alone they change no choice,
    if (!spread_.empty()) {                                             // but for penalties
      for (long i = 0; i < (end - begin) * a_.dim; ++i) spread_[i] = a_.weight[begin + i / a_.dim];
      weight = spread_.data();
    }
    nearest({a_.points + begin * a_.dim, a_.table, shift_.data(), weight, a_.penalty, end - begin, a_.dim, a_.entries,
             a_.dim, 1, codes_.data(), nullptr},
            threads);
    return codes_.data();
  }

 private:
  const LloydArgs& a_;
  bool own_;
  std::vector<float> shift_, spread_;
  std::vector<int> codes_;
};

void one_problem(const LloydArgs& a, int threads) {
  const Accumulate add = !a.weight ? pick<0>(a.dim) : a.weights > 1 ? pick<2>(a.dim) : pick<1>(a.dim);
  const long share = (a.entries + threads - 1) / threads;
  std::unique_ptr<Search> search(a.codes ? nullptr : new Search(a));
  for (long begin = 0; begin < a.count; begin += kBlock) {
    const long end = std::min(a.count, begin + kBlock);
    const int* codes = a.codes ? a.codes + begin : search->run(begin, end, threads);
    parallel_for(a.entries, share, threads,
                 [&](long low, long high) { add(a, codes, begin, end, (int)low, (int)high); });
  }
}

}  // namespace

void lloyd_step(const LloydArgs& args, int threads) {
  if (args.problems == 1) return one_problem(args, threads);
  parallel_for(args.problems, 1, threads, [&](long first, long last) {
    for (long p = first; p < last; ++p) one_problem(problem(args, p), 1);
  });
}

void lower_distances(const float* points, const float* weight, long count, long dim, long weights, const float* centre,
                     float* distances, double* sums, int threads) {
  parallel_for(count, kDistanceBlock, threads, [&](long first, long last) {
    double sum = 0;
    for (long i = first; i < last; ++i) {
      const float* x = points + i * dim;
      float distance = 0;
      for (long d = 0; d < dim; ++d) {
        const float off = x[d] - centre[d];
        distance += (weights > 1 ? weight[i * dim + d] : 1.0f) * off * off;
      }
      if (weights == 1) distance *= weight[i];
      distances[i] = std::min(distances[i], distance);
      sum += distances[i];
    }
    sums[first / kDistanceBlock] = sum;
  });
}

}  // namespace vq
