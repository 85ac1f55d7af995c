#include "vq/pyramid.h"

#include <cmath>
#include <vector>

#include "vq/threads.h"

namespace vq {
namespace {

constexpr double kGain = 1 + 1e-9;  // an exchange must help by more than rounding errors

// One vector's search; arrays of `dim` numbers are reused from vector to vector.
struct Search {
  long dim;
  int pulses;
  std::vector<double> product, weight, count;  // w |x|, w, pulses of each coordinate
  double dot = 0, norm = 0;                    // sum w |x| y, sum w y^2

  Search(long dim, int pulses) : dim(dim), pulses(pulses), product(dim), weight(dim), count(dim) {}

  static double score(double dot, double norm) { return norm > 0 ? dot * dot / norm : 0; }

  // The part of the point on the pyramid that is whole, rounded down; returns the pulses left.
  int project(const float* x, const float* w) {
    double total = 0;
    for (long i = 0; i < dim; ++i) total += std::fabs(static_cast<double>(x[i]));
    double factor = total > 0 ? pulses / total : 0;
    int left = pulses;
    dot = norm = 0;
    for (long i = 0; i < dim; ++i) {
      double size = std::fabs(static_cast<double>(x[i]));
      weight[i] = w ? w[i] : 1.0;
      product[i] = weight[i] * size;
      count[i] = std::floor(size * factor + 1e-5);
      left -= static_cast<int>(count[i]);
      dot += product[i] * count[i];
      norm += weight[i] * count[i] * count[i];
    }
    return left;
  }

  void add_best() {
    long best = 0;
    double high = -1;
    for (long i = 0; i < dim; ++i) {
      double value = score(dot + product[i], norm + weight[i] * (2 * count[i] + 1));
      if (value > high) high = value, best = i;
    }
    dot += product[best];
    norm += weight[best] * (2 * count[best] + 1);
    count[best] += 1;
  }

  // Moves one pulse where that helps most; false if nothing helps.
  bool exchange() {
    long from = -1, to = -1;
    double high = score(dot, norm) * kGain;
    for (long i = 0; i < dim; ++i) {
      if (count[i] < 1) continue;
      double d = dot - product[i], n = norm - weight[i] * (2 * count[i] - 1);
      for (long j = 0; j < dim; ++j) {
        if (j == i) continue;
        double value = score(d + product[j], n + weight[j] * (2 * count[j] + 1));
        if (value > high) high = value, from = i, to = j;
      }
    }
    if (from < 0) return false;
    dot += product[to] - product[from];
    norm += weight[to] * (2 * count[to] + 1) - weight[from] * (2 * count[from] - 1);
    count[from] -= 1;
    count[to] += 1;
    return true;
  }

  void run(const float* x, const float* w, short* out) {
    for (int left = project(x, w); left > 0; --left) add_best();
    for (int round = 0; round < 2 * pulses && exchange(); ++round) {
    }
    for (long i = 0; i < dim; ++i) out[i] = static_cast<short>(x[i] < 0 ? -count[i] : count[i]);
  }
};

}  // namespace

void pyramid_search(const PyramidArgs& args, int threads) {
  parallel_for(args.count, 64, threads, [&](long first, long last) {
    Search search(args.dim, args.pulses);
    for (long i = first; i < last; ++i) {
      long at = i * args.dim;
      search.run(args.points + at, args.weight ? args.weight + at : nullptr, args.out + at);
    }
  });
}

}  // namespace vq
