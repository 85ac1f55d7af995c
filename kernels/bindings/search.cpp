#include <cstdint>

#include "vq/beam.h"
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

static void beam_call(std::uintptr_t points, std::uintptr_t weight, std::uintptr_t rows, std::uintptr_t columns,
                      std::uintptr_t bias, std::uintptr_t half, long count, long dim, long stages, long entries,
                      long stride, int beam, std::uintptr_t codes, int threads) {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<const float*>(address); };
  BeamArgs args{at(points), at(weight), at(rows), at(columns), at(bias), at(half), count, dim,
                stages, entries, stride, beam, reinterpret_cast<int*>(codes)};
  nb::gil_scoped_release release;
  beam_search(args, threads);
}

void bind_search(nb::module_& m) {
  m.def("nearest", &nearest_call, nb::arg("points"), nb::arg("table"), nb::arg("bias"), nb::arg("count"),
        nb::arg("dim"), nb::arg("stride"), nb::arg("codes"), nb::arg("threads"),
        "codes[i] = argmin_j bias[j] - dot(points[i], table[:, j]); stride is a multiple of 16.");
  m.def("beam_search", &beam_call, nb::arg("points"), nb::arg("weight"), nb::arg("rows"), nb::arg("columns"),
        nb::arg("bias"), nb::arg("half"), nb::arg("count"), nb::arg("dim"), nb::arg("stages"), nb::arg("entries"),
        nb::arg("stride"), nb::arg("beam"), nb::arg("codes"), nb::arg("threads"),
        "Codes of sums of codewords near each point; arrays as in vq/beam.h, weight and half may be 0.");
}

}  // namespace vq
