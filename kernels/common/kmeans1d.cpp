#include "vq/kmeans1d.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "vq/threads.h"

namespace vq {
namespace {

constexpr int kReach = 8;  // steps that an end may move to either side at once
constexpr double kNone = -std::numeric_limits<double>::infinity();

struct Point {
  uint32_t key;  // orders as the number does
  float weight;
};

uint32_t key_of(float value) {
  uint32_t bits;
  value += 0.0f;  // -0 becomes 0
  std::memcpy(&bits, &value, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

float value_of(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Stable, by three passes of 11 bits.
void radix_sort(std::vector<Point>& points, std::vector<Point>& other) {
  other.resize(points.size());
  for (int shift = 0; shift < 33; shift += 11) {
    uint32_t starts[2049] = {0};
    for (const Point& p : points) ++starts[((p.key >> shift) & 2047) + 1];
    for (int i = 0; i < 2048; ++i) starts[i + 1] += starts[i];
    for (const Point& p : points) other[starts[(p.key >> shift) & 2047]++] = p;
    points.swap(other);
  }
}

struct Sums {
  double weight, value;
};

class Row {
 public:
  void solve(const float* values, const float* weights, long count, int levels, int bins, float* table, double* error) {
    sort(values, weights, count);
    const long distinct = (long)sums_.size() - 1;
    ends_.assign(levels + 1, distinct);
    ends_[0] = 0;
    if (distinct <= levels) {
      for (long i = 0; i < distinct; ++i) ends_[i] = i;
    } else {
      const long width = choose(levels, bins);
      for (long step = width; step; step /= 4) {
        for (int round = 0; round < 50 && move(levels, step); ++round) {
        }
      }
    }
    finish(levels, table, error);
  }

 private:
  // Distinct numbers in order, their sums from the left, about their mean.
  void sort(const float* values, const float* weights, long count) {
    points_.clear();
    double mass = 0, total = 0;
    for (long i = 0; i < count; ++i) {
      const float weight = weights ? weights[i] : 1.0f;
      if (weight > 0) {
        points_.push_back({key_of(values[i]), weight});
        mass += weight;
        total += (double)weight * values[i];
      }
    }
    radix_sort(points_, other_);
    mean_ = mass > 0 ? total / mass : 0;
    sums_.assign(1, {0, 0});
    distinct_.clear();
    power_ = 0;
    for (size_t i = 0; i < points_.size(); ++i) {
      const double value = value_of(points_[i].key) - mean_, weight = points_[i].weight;
      if (i == 0 || points_[i].key != points_[i - 1].key) {
        sums_.push_back(sums_.back());
        distinct_.push_back((float)value);
      }
      sums_.back().weight += weight;
      sums_.back().value += weight * value;
      power_ += weight * value * value;
    }
  }

  double gain(const Sums& from, const Sums& to) const {
    const double value = to.value - from.value;
    return value * value / (to.weight - from.weight);
  }

  // Ends of n bins, each about as wide on a scale that grows by the square root of a gap between numbers: fine in the middle by
  // count, and in the tails by distance.
  void spread(long n) {
    const long distinct = (long)sums_.size() - 1;
    for (long b = 0; b <= n; ++b) places_[b] = b;
    if (n == distinct) return;
    double total = 0;
    scale_.resize(distinct);
    for (long i = 1; i < distinct; ++i) scale_[i] = total += std::sqrt((double)(distinct_[i] - distinct_[i - 1]));
    long i = 0;
    for (long b = 1; b < n; ++b) {
      const double target = total * b / n;
      i = std::max(i + 1, b);
      while (i < distinct - (n - b) && scale_[i] < target) ++i;
      places_[b] = i;
    }
    places_[n] = distinct;
  }

  // Best ends among `bins` of them; returns how many distinct numbers lie between two.
  long choose(int levels, int bins) {
    const long distinct = (long)sums_.size() - 1, most = std::max<long>(bins, levels);
    const long n = std::min(distinct, most);
    places_.resize(n + 1);
    at_.resize(n + 1);
    spread(n);
    for (long b = 0; b <= n; ++b) at_[b] = sums_[places_[b]];
    before_.assign(n + 1, kNone);
    now_.assign(n + 1, kNone);
    from_.resize((size_t)levels * (n + 1));
    for (long j = 1; j <= n; ++j) before_[j] = gain(at_[0], at_[j]);
    for (int k = 1; k < levels; ++k) {
      const long first = k + 1 == levels ? n : k + 1;  // the last layer is needed at its end only
      layer(&from_[(size_t)k * (n + 1)], first, n, k, n - 1);
      before_.swap(now_);
    }
    long j = n;
    for (int k = levels - 1; k > 0; --k) {
      j = from_[(size_t)k * (n + 1) + j];
      ends_[k] = places_[j];
    }
    return (distinct + n - 1) / n;
  }

  void layer(int* from, long first, long last, long low, long high) {
    if (first > last) return;
    const long j = (first + last) / 2;
    double best = kNone;
    long at = low;
    for (long i = low; i <= std::min(high, j - 1); ++i) {
      const double found = before_[i] + gain(at_[i], at_[j]);
      if (found > best) {
        best = found;
        at = i;
      }
    }
    now_[j] = best;
    from[j] = (int)at;
    layer(from, first, j - 1, low, at);
    layer(from, j + 1, last, at, high);
  }

  // The best ends at multiples of `step` from the present ones; whether any moved.
  bool move(int levels, long step) {
    constexpr int width = 2 * kReach + 1;
    std::vector<double>& best = moved_;
    best.assign((size_t)(levels + 1) * width, kNone);
    choice_.assign((size_t)(levels + 1) * width, 0);
    const long distinct = (long)sums_.size() - 1;
    best[kReach] = 0;  // the first end does not move
    for (int k = 1; k <= levels; ++k) {
      for (int t = 0; t < width; ++t) {
        const long j = ends_[k] + (t - kReach) * step;
        if (j <= 0 || j > distinct || (k == levels && t != kReach)) continue;
        for (int s = 0; s < width; ++s) {
          const long i = ends_[k - 1] + (s - kReach) * step;
          const double known = best[(size_t)(k - 1) * width + s];
          if (known == kNone || i >= j) continue;
          const double found = known + gain(sums_[i], sums_[j]);
          if (found > best[(size_t)k * width + t]) {
            best[(size_t)k * width + t] = found;
            choice_[(size_t)k * width + t] = s;
          }
        }
      }
    }
    const double reached = best[(size_t)levels * width + kReach];
    double present = 0;
    for (int k = 0; k < levels; ++k) present += gain(sums_[ends_[k]], sums_[ends_[k + 1]]);
    if (!(reached > present * (1 + 1e-13))) return false;
    for (int k = levels, t = kReach; k > 0; --k) {
      t = choice_[(size_t)k * width + t];
      ends_[k - 1] += (t - kReach) * step;
    }
    return true;
  }

  void finish(int levels, float* table, double* error) const {
    double explained = 0;
    float last = (float)mean_;
    for (int k = 0; k < levels; ++k) {
      const Sums &from = sums_[ends_[k]], &to = sums_[ends_[k + 1]];
      if (to.weight > from.weight) {
        explained += gain(from, to);
        last = (float)(mean_ + (to.value - from.value) / (to.weight - from.weight));
      }
      table[k] = last;
    }
    *error = std::max(0.0, power_ - explained);
  }

  std::vector<Point> points_, other_;
  std::vector<Sums> sums_, at_;
  std::vector<long> ends_, places_;
  std::vector<float> distinct_;
  std::vector<double> scale_, before_, now_, moved_;
  std::vector<int> from_, choice_;
  double mean_ = 0, power_ = 0;
};

}  // namespace

void kmeans1d(const float* values, const float* weights, long rows, long count, int levels, int bins, float* table,
              double* errors, int threads) {
  const long grain = std::max(1L, std::min(16L, rows / (4L * std::max(1, threads))));
  parallel_for(rows, grain, threads, [&](long first, long last) {
    Row row;
    for (long r = first; r < last; ++r)
      row.solve(values + r * count, weights ? weights + r * count : nullptr, count, levels, bins, table + r * levels,
                errors + r);
  });
}

}  // namespace vq
