#include "vq/cpu.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if VQ_NEON && defined(__linux__)
#include <sys/auxv.h>
#elif VQ_NEON && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace vq {
namespace {

std::atomic<int> chosen{-1};

// Whether the set is one of this machine's kind and not better than its best.
bool runs(Isa value) { return value <= best_isa() && (value != Isa::neon || best_isa() == Isa::neon); }

bool parse(const std::string& name, Isa* out) {
  for (Isa value : {Isa::portable, Isa::neon, Isa::avx2, Isa::avx512}) {
    if (name == isa_name(value)) {
      *out = value;
      return true;
    }
  }
  return false;
}

#if VQ_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vbmi2");
}
#endif

}  // namespace

const char* isa_name(Isa value) {
  switch (value) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::neon: return "neon";
    default: return "portable";
  }
}

Isa best_isa() {
#if VQ_X86
  static const Isa best = has_avx512() ? Isa::avx512 : has_avx2() ? Isa::avx2 : Isa::portable;
  return best;
#elif VQ_NEON
  return Isa::neon;
#else
  return Isa::portable;
#endif
}

Isa isa() {
  int value = chosen.load(std::memory_order_relaxed);
  if (value < 0) {
    Isa pick = best_isa(), wish;
    const char* name = std::getenv("VQ_ISA");
    if (name && parse(name, &wish) && runs(wish)) pick = wish;
    value = static_cast<int>(pick);
    chosen.store(value, std::memory_order_relaxed);
  }
  return static_cast<Isa>(value);
}

void set_isa(const std::string& name) {
  Isa wish;
  if (!parse(name, &wish)) throw std::invalid_argument("unknown instruction set '" + name + "': expected portable, neon, avx2 or avx512");
  if (!runs(wish))
    throw std::invalid_argument("this CPU cannot run '" + name + "'; the best it can run is '" + isa_name(best_isa()) + "'");
  chosen.store(static_cast<int>(wish), std::memory_order_relaxed);
}

bool has_dot_product() {
#if VQ_NEON && defined(__linux__)
  static const bool found = getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
  return found;
#elif VQ_NEON && defined(__APPLE__)
  static const bool found = [] {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
  }();
  return found;
#else
  return false;
#endif
}

std::string cpu_features() {
#if VQ_X86
  std::string found;
  auto add = [&](const char* name, bool has) {
    if (has) found += (found.empty() ? "" : ",") + std::string(name);
  };
  add("avx2", __builtin_cpu_supports("avx2"));
  add("fma", __builtin_cpu_supports("fma"));
  add("avxvnni", __builtin_cpu_supports("avxvnni"));
  add("avx512f", __builtin_cpu_supports("avx512f"));
  add("avx512bw", __builtin_cpu_supports("avx512bw"));
  add("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  add("avx512vbmi", __builtin_cpu_supports("avx512vbmi"));
  add("avx512vbmi2", __builtin_cpu_supports("avx512vbmi2"));
  return found;
#elif VQ_NEON
  return has_dot_product() ? "neon,dotprod" : "neon";
#else
  return "";
#endif
}

}  // namespace vq
