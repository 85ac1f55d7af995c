#include "vq/linear.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "vq/bindings.h"
#include "vq/steps.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace vq {
namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// The matrix of a product; false where the header does not fit what is given (the caller then finds out why). `table` has
// `count` numbers: 64 levels, or a trellis' values.
bool view(uintptr_t weight, long bytes, uintptr_t table, long count, long in, long out, int planes, Trellis* w) {
  try {
    *w = view_trellis(pointer<const uint8_t>(weight), bytes, pointer<const void>(table));
  } catch (const std::invalid_argument&) {
    return false;
  }
  const long expected = w->hash ? 64 : static_cast<long>(w->symbols) << w->memory;
  return w->in == in && w->out == out && count == expected && (planes > 0 || !w->hash);
}

bool linear(uintptr_t x, long rows, uintptr_t weight, long bytes, uintptr_t scales, uintptr_t signs_in,
            uintptr_t signs_out, uintptr_t table, long count, long in, long out, int planes, uintptr_t y, int threads) {
  Product product{{}, pointer<const uint16_t>(scales), pointer<const uint8_t>(signs_out), pointer<float>(y)};
  if (!view(weight, bytes, table, count, in, out, planes, &product.w)) return false;
  nb::gil_scoped_release release;
  return packed_linear(pointer<const float>(x), rows, in, pointer<const uint8_t>(signs_in), planes, &product, 1, threads);
}

// Each matrix: weight, bytes, scales, signs_out, table, its numbers, out, y.
bool group(uintptr_t x, long rows, long in, uintptr_t signs_in, int planes,
           const std::vector<std::array<int64_t, 8>>& matrices, int threads) {
  std::vector<Product> products;
  for (const auto& m : matrices) {
    Product product{{}, pointer<const uint16_t>(m[2]), pointer<const uint8_t>(m[3]), pointer<float>(m[7])};
    if (!view(m[0], m[1], m[4], m[5], in, m[6], planes, &product.w)) return false;
    products.push_back(product);
  }
  nb::gil_scoped_release release;
  return packed_linear(pointer<const float>(x), rows, in, pointer<const uint8_t>(signs_in), planes, products.data(),
                       static_cast<int>(products.size()), threads);
}

void trellis(uintptr_t weight, long bytes, uintptr_t table, long first, long rows, uintptr_t out, int threads) {
  const Trellis w = view_trellis(pointer<const uint8_t>(weight), bytes, pointer<const void>(table));
  if (first < 0 || rows < 0 || first + rows > w.out) throw std::invalid_argument("decode: rows beyond the matrix");
  nb::gil_scoped_release release;
  decode_trellis(w, first, rows, pointer<float>(out), threads);
}

// Empty where no integer kernel serves the matrix.
std::string name(uintptr_t weight, long bytes, uintptr_t table) {
  const char* found = steps_name(view_trellis(pointer<const uint8_t>(weight), bytes, pointer<const void>(table)));
  return found ? found : "";
}

void fixed(uintptr_t payload, int bits, uintptr_t table, long entries, long dim, long in, long first, long rows,
           uintptr_t out, int threads) {
  nb::gil_scoped_release release;
  decode_rows(pointer<const uint8_t>(payload), bits, pointer<const float>(table), entries, dim, in, first, rows,
              pointer<float>(out), threads);
}

void rotate(uintptr_t x, long rows, long n, uintptr_t first, uintptr_t last, int threads) {
  nb::gil_scoped_release release;
  hadamard_rows(pointer<float>(x), rows, n, pointer<const uint8_t>(first), pointer<const uint8_t>(last), threads);
}

}  // namespace

void bind_linear(nb::module_& m) {
  m.def("packed_linear", &linear, "Addresses of x, weight, ...; see vq/kernels/linear.py.");
  m.def("packed_linear_group", &group, "Several matrices on one input; see vq/kernels/linear_group.py.");
  m.def("trellis_kernel", &name, "What multiplies a trellis whose values stand in a table, in the integer modes.");
  m.def("decode_trellis", &trellis, "Rows of a matrix in layout 2 as float32.");
  m.def("decode_rows", &fixed, "Rows of a matrix in layout 1 as float32.");
  m.def("hadamard", &rotate, "In place over float32 (rows, n).");
}

}  // namespace vq
