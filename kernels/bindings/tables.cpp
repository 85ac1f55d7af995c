#include "vq/tables.h"

#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "vq/bindings.h"

namespace nb = nanobind;

namespace vq {
namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

constexpr long kFloatRows = 32;  // rows of mode float up to which its kernels are faster than decoding

// False where the header does not fit the sizes given (the caller then finds out why), or where decoded panels and a float32
// product are faster.
bool linear(uintptr_t x, long rows, uintptr_t weight, long bytes, uintptr_t scales, uintptr_t signs_in,
            uintptr_t signs_out, uintptr_t table, long parts, long entries, long width, long in, long out, long scale_count,
            int mode, uintptr_t y, int threads) {
  Tables w;
  try {
    w = view_tables(pointer<const uint8_t>(weight), bytes, pointer<const void>(table), parts, entries, width);
  } catch (const std::invalid_argument&) {
    return false;
  }
  if (w.in != in || w.out != out || w.out * w.groups != scale_count || mode < 0 || mode > 2 || (mode == 0 && rows > kFloatRows)) return false;
  nb::gil_scoped_release release;
  tables_linear(pointer<const float>(x), rows, w, pointer<const uint16_t>(scales), pointer<const uint8_t>(signs_in),
                pointer<const uint8_t>(signs_out), static_cast<TableMode>(mode), pointer<float>(y), threads);
  return true;
}

void decode(uintptr_t weight, long bytes, uintptr_t table, long parts, long entries, long width, long first, long rows,
            uintptr_t out, int threads) {
  const Tables w = view_tables(pointer<const uint8_t>(weight), bytes, pointer<const void>(table), parts, entries, width);
  if (first < 0 || rows < 0 || first + rows > w.out) throw std::invalid_argument("decode: rows beyond the matrix");
  nb::gil_scoped_release release;
  decode_tables(w, first, rows, pointer<float>(out), threads);
}

void gather(uintptr_t weight, long bytes, uintptr_t table, long parts, long entries, long width, uintptr_t index,
            long count, uintptr_t out, int threads) {
  const Tables w = view_tables(pointer<const uint8_t>(weight), bytes, pointer<const void>(table), parts, entries, width);
  nb::gil_scoped_release release;
  gather_tables(w, pointer<const int64_t>(index), count, pointer<float>(out), threads);
}

std::string kernel(uintptr_t weight, long bytes, uintptr_t table, long parts, long entries, long width, int mode,
                   long rows) {
  const Tables w = view_tables(pointer<const uint8_t>(weight), bytes, pointer<const void>(table), parts, entries, width);
  return tables_kernel(w, static_cast<TableMode>(mode), rows);
}

}  // namespace

void bind_tables(nb::module_& m) {
  m.def("tables_linear", &linear, "A whole layer of a matrix in layout 4; see vq/kernels/linear.py.");
  m.def("decode_tables", &decode, "Rows of a matrix in layout 4 as float32.");
  m.def("gather_tables", &gather, "Rows of the given numbers of a matrix in layout 4 as float32.");
  m.def("tables_kernel", &kernel, "Which kernel serves so many rows.");
}

}  // namespace vq
