#include <cstdint>

#include "vq/bindings.h"
#include "vq/trellis.h"

namespace nb = nanobind;

namespace vq {
namespace {

template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void encode(std::uintptr_t x, long n, std::uintptr_t table, int memory, int step_bits, int symbols, int steps,
            std::uintptr_t codes, int threads) {
  trellis_encode(at<const float>(x), n, at<const float>(table), {memory, step_bits, symbols, steps},
                 at<uint8_t>(codes), threads);
}

void encode_weighted(std::uintptr_t x, std::uintptr_t weight, long n, std::uintptr_t table, int memory, int step_bits,
                     int symbols, int steps, std::uintptr_t codes, int threads) {
  trellis_encode_weighted(at<const float>(x), at<const float>(weight), n, at<const float>(table),
                          {memory, step_bits, symbols, steps}, at<uint8_t>(codes), threads);
}

void decode(std::uintptr_t codes, long n, std::uintptr_t table, int memory, int step_bits, int symbols, int steps,
            std::uintptr_t values, int threads) {
  trellis_decode(at<const uint8_t>(codes), n, at<const float>(table), {memory, step_bits, symbols, steps},
                 at<float>(values), threads);
}

void pack(std::uintptr_t codes, long n, int steps, int step_bits, std::uintptr_t words, int threads) {
  trellis_pack(at<const uint8_t>(codes), n, steps, step_bits, at<uint64_t>(words), threads);
}

void unpack(std::uintptr_t words, long n, int steps, int step_bits, std::uintptr_t codes, int threads) {
  trellis_unpack(at<const uint64_t>(words), n, steps, step_bits, at<uint8_t>(codes), threads);
}

}  // namespace

void bind_encode(nb::module_& m) {
  using release = nb::call_guard<nb::gil_scoped_release>;
  m.def("trellis_encode", &encode, release(), nb::arg("x"), nb::arg("n"), nb::arg("table"), nb::arg("memory"),
        nb::arg("step_bits"), nb::arg("symbols"), nb::arg("steps"), nb::arg("codes"),
        nb::arg("threads"), "Tail-biting Viterbi: (n, steps * symbols) float32 to (n, steps) uint8.");
  m.def("trellis_encode_weighted", &encode_weighted, release(), nb::arg("x"), nb::arg("weight"), nb::arg("n"),
        nb::arg("table"), nb::arg("memory"), nb::arg("step_bits"), nb::arg("symbols"), nb::arg("steps"),
        nb::arg("codes"), nb::arg("threads"), "The same for a weighted squared error, in float.");
  m.def("trellis_decode", &decode, release(), nb::arg("codes"), nb::arg("n"), nb::arg("table"), nb::arg("memory"),
        nb::arg("step_bits"), nb::arg("symbols"), nb::arg("steps"), nb::arg("values"), nb::arg("threads"),
        "Codes to values by table.");
  m.def("trellis_pack", &pack, release(), nb::arg("codes"), nb::arg("n"), nb::arg("steps"), nb::arg("step_bits"),
        nb::arg("words"), nb::arg("threads"), "Codes to 64-bit words, first bit most significant.");
  m.def("trellis_unpack", &unpack, release(), nb::arg("words"), nb::arg("n"), nb::arg("steps"), nb::arg("step_bits"),
        nb::arg("codes"), nb::arg("threads"), "Inverse of trellis_pack.");
}

}  // namespace vq
