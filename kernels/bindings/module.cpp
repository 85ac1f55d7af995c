#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "vq/bindings.h"
#include "vq/cpu.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.doc() = "CPU kernels of vq. Raw addresses in, nothing returned; the Python wrappers check every argument first.";
  m.def("isa", [] { return std::string(vq::isa_name(vq::isa())); }, "Instruction set in use.");
  m.def("best_isa", [] { return std::string(vq::isa_name(vq::best_isa())); }, "Best instruction set of this CPU.");
  m.def("set_isa", &vq::set_isa, nb::arg("name"), "Force an instruction set for this process.");
  m.def("cpu_features", &vq::cpu_features, "CPU features that the kernels look at.");
  vq::bind_all(m);
}
