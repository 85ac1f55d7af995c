#include <cstdint>

#include "vq/bindings.h"
#include "vq/kmeans1d.h"
#include "vq/lloyd.h"

namespace nb = nanobind;

namespace vq {
namespace {

template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void step(std::uintptr_t points, std::uintptr_t table, std::uintptr_t weight, std::uintptr_t penalty,
          std::uintptr_t codes, long problems, long count, long dim, long entries, long weights, std::uintptr_t total, std::uintptr_t mass,
          std::uintptr_t error, std::uintptr_t members, std::uintptr_t reach, std::uintptr_t farthest, int threads) {
  lloyd_step({at<const float>(points), at<const float>(table), at<const float>(weight), at<const float>(penalty),
              at<const int>(codes), problems, count, dim, entries, weights, at<double>(total), at<double>(mass), at<double>(error),
              at<long>(members), at<double>(reach), at<long>(farthest)},
             threads);
}

void lower(std::uintptr_t points, std::uintptr_t weight, long count, long dim, long weights, std::uintptr_t centre,
           std::uintptr_t distances, std::uintptr_t sums, int threads) {
  lower_distances(at<const float>(points), at<const float>(weight), count, dim, weights, at<const float>(centre),
                  at<float>(distances), at<double>(sums), threads);
}

void scalar(std::uintptr_t values, std::uintptr_t weights, long rows, long count, int levels, int bins,
            std::uintptr_t table, std::uintptr_t errors, int threads) {
  kmeans1d(at<const float>(values), at<const float>(weights), rows, count, levels, bins, at<float>(table),
           at<double>(errors), threads);
}

}  // namespace

void bind_lloyd(nb::module_& m) {
  using release = nb::call_guard<nb::gil_scoped_release>;
  m.def("lloyd_step", &step, release(), nb::arg("points"), nb::arg("table"), nb::arg("weight"), nb::arg("penalty"),
        nb::arg("codes"), nb::arg("problems"), nb::arg("count"), nb::arg("dim"), nb::arg("entries"), nb::arg("weights"), nb::arg("total"),
        nb::arg("mass"), nb::arg("error"), nb::arg("members"), nb::arg("reach"), nb::arg("farthest"), nb::arg("threads"),
        "Adds the sums over the cells of every codeword; weight, penalty and codes may be 0.");
  m.def("lower_distances", &lower, release(), nb::arg("points"), nb::arg("weight"), nb::arg("count"), nb::arg("dim"),
        nb::arg("weights"), nb::arg("centre"), nb::arg("distances"), nb::arg("sums"), nb::arg("threads"),
        "Weighted squared distances to one more centre where it is nearer, and their sums over blocks of 4096.");
  m.def("kmeans1d", &scalar, release(), nb::arg("values"), nb::arg("weights"), nb::arg("rows"), nb::arg("count"),
        nb::arg("levels"), nb::arg("bins"), nb::arg("table"), nb::arg("errors"), nb::arg("threads"),
        "Optimal levels of every row; weights may be 0.");
}

}  // namespace vq
