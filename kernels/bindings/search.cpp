#include <cstdint>

#include "vq/bindings.h"
#include "vq/nearest.h"

namespace nb = nanobind;

namespace vq {

static void nearest_call(std::uintptr_t points, std::uintptr_t table, std::uintptr_t bias, long count, long dim,
                         long stride, std::uintptr_t codes, int threads) {
  NearestArgs args{reinterpret_cast<const float*>(points), reinterpret_cast<const float*>(table),
                   reinterpret_cast<const float*>(bias), count, dim, stride, reinterpret_cast<int*>(codes)};
  nb::gil_scoped_release release;
  nearest(args, threads);
}

void bind_search(nb::module_& m) {
  m.def("nearest", &nearest_call, nb::arg("points"), nb::arg("table"), nb::arg("bias"), nb::arg("count"),
        nb::arg("dim"), nb::arg("stride"), nb::arg("codes"), nb::arg("threads"),
        "codes[i] = argmin_j bias[j] - dot(points[i], table[:, j]); stride is a multiple of 16.");
}

}  // namespace vq
