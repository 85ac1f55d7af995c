#include <cstdint>

#include "vq/beam.h"
#include "vq/bindings.h"
#include "vq/nearest.h"

namespace nb = nanobind;

namespace vq {
namespace {

template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void shift_call(std::uintptr_t table, long entries, long dim, std::uintptr_t shift) {
  nearest_shift(at<const float>(table), entries, dim, at<float>(shift));
}

void nearest_call(std::uintptr_t points, std::uintptr_t table, std::uintptr_t shift, std::uintptr_t weight,
                  std::uintptr_t penalty, long count, long dim, long entries, long weight_stride, int top,
                  std::uintptr_t codes, std::uintptr_t margins, int threads) {
  nearest({at<const float>(points), at<const float>(table), at<const float>(shift), at<const float>(weight),
           at<const float>(penalty), count, dim, entries, weight_stride, top, at<int>(codes), at<float>(margins)},
          threads);
}

void beam_call(std::uintptr_t points, std::uintptr_t weight, std::uintptr_t rows, std::uintptr_t columns,
               std::uintptr_t bias, std::uintptr_t half, long count, long dim, long stages, long entries, long stride,
               int beam, std::uintptr_t codes, int threads) {
  beam_search({at<const float>(points), at<const float>(weight), at<const float>(rows), at<const float>(columns),
               at<const float>(bias), at<const float>(half), count, dim, stages, entries, stride, beam,
               at<int>(codes)},
              threads);
}

}  // namespace

void bind_search(nb::module_& m) {
  using release = nb::call_guard<nb::gil_scoped_release>;
  m.def("nearest_shift", &shift_call, release(), nb::arg("table"), nb::arg("entries"), nb::arg("dim"),
        nb::arg("shift"), "What to take off points and codewords before they are compared.");
  m.def("nearest", &nearest_call, release(), nb::arg("points"), nb::arg("table"), nb::arg("shift"), nb::arg("weight"),
        nb::arg("penalty"), nb::arg("count"), nb::arg("dim"), nb::arg("entries"), nb::arg("weight_stride"),
        nb::arg("top"), nb::arg("codes"), nb::arg("margins"), nb::arg("threads"),
        "The `top` nearest codewords of every point, nearest first, lowest index among equals; weight, penalty and margins may be 0.");
  m.def("beam_search", &beam_call, release(), nb::arg("points"), nb::arg("weight"), nb::arg("rows"),
        nb::arg("columns"), nb::arg("bias"), nb::arg("half"), nb::arg("count"), nb::arg("dim"), nb::arg("stages"),
        nb::arg("entries"), nb::arg("stride"), nb::arg("beam"), nb::arg("codes"), nb::arg("threads"),
        "Codes of sums of codewords near each point; arrays as in vq/beam.h, weight and half may be 0.");
}

}  // namespace vq
