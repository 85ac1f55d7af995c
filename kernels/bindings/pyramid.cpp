#include "vq/pyramid.h"

#include <cstdint>

#include "vq/bindings.h"

namespace nb = nanobind;

namespace vq {

static void pyramid_call(std::uintptr_t points, std::uintptr_t weight, long count, long dim, int pulses,
                         std::uintptr_t out, int threads) {
  PyramidArgs args{reinterpret_cast<const float*>(points), reinterpret_cast<const float*>(weight), count, dim, pulses,
                   reinterpret_cast<short*>(out)};
  nb::gil_scoped_release release;
  pyramid_search(args, threads);
}

void bind_pyramid(nb::module_& m) {
  m.def("pyramid_search", &pyramid_call, nb::arg("points"), nb::arg("weight"), nb::arg("count"), nb::arg("dim"),
        nb::arg("pulses"), nb::arg("out"), nb::arg("threads"),
        "Signed pulses, int16, of each point; weight is an address or 0.");
}

}  // namespace vq
