// Each family of kernels binds itself in a file of its own under kernels/bindings/.
#pragma once
#include <nanobind/nanobind.h>

namespace vq {

void bind_encode(nanobind::module_& m);  // trellis encoder (Viterbi) and decoder
void bind_lattice(nanobind::module_& m);  // nearest lattice points, E8P search
void bind_linear(nanobind::module_& m);  // packed linear layers, block Hadamard
void bind_pyramid(nanobind::module_& m);  // pyramid (PVQ) search
void bind_search(nanobind::module_& m);  // nearest codeword
void bind_lloyd(nanobind::module_& m);   // k-means, also optimal in one dimension
void bind_tables(nanobind::module_& m);  // packed layers of table codes

inline void bind_all(nanobind::module_& m) {
  bind_encode(m);
  bind_lattice(m);
  bind_linear(m);
  bind_pyramid(m);
  bind_search(m);
  bind_lloyd(m);
  bind_tables(m);
}

}  // namespace vq
