#include <cstdint>

#include "vq/bindings.h"
#include "vq/lattice.h"

namespace nb = nanobind;

namespace vq {

static void lattice_call(int search, std::uintptr_t x, long count, std::uintptr_t points, std::uintptr_t codes,
                         std::uintptr_t tables, std::uintptr_t wanted, float limit, int top, int threads) {
  const LatticeArgs args{reinterpret_cast<const float*>(x), count, reinterpret_cast<float*>(points),
                         reinterpret_cast<int*>(codes), reinterpret_cast<const unsigned char*>(tables),
                         reinterpret_cast<const float*>(wanted), limit, top};
  nb::gil_scoped_release release;
  lattice(static_cast<LatticeSearch>(search), args, threads);
}

void bind_lattice(nb::module_& m) {
  m.def("lattice", &lattice_call, nb::arg("search"), nb::arg("x"), nb::arg("count"), nb::arg("points"),
        nb::arg("codes"), nb::arg("tables"), nb::arg("wanted"), nb::arg("limit"), nb::arg("top"), nb::arg("threads"),
        "search 0: E8, 1: Leech times sqrt(8), 2: E8P codes, 3: Leech in a ball; unused addresses are 0.");
}

}  // namespace vq
