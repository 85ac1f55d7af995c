// Which instruction set runs: detected once, overridable by the environment variable VQ_ISA.
#pragma once
#include <string>

namespace vq {

enum class Isa { portable = 0, neon = 1, avx2 = 2, avx512 = 3 };

// The best set this machine can run.
Isa best_isa();

// The set in use: VQ_ISA (portable, neon, avx2, avx512) where it is set and the machine can run it, else best_isa().
Isa isa();

// Forces a set for this process; throws std::invalid_argument for a name that is unknown or cannot run here.
void set_isa(const std::string& name);

const char* isa_name(Isa value);

// Whether this 64-bit Arm CPU has the dot product of bytes; false elsewhere.
bool has_dot_product();

// Comma-separated CPU features that the kernels look at.
std::string cpu_features();

}  // namespace vq
