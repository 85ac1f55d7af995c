// What the tests share.
#pragma once
#include <cstdio>
#include <string>

#if !defined(VQ_QUICK)
#define VQ_QUICK 0  // 1: fewer cases, for builds that run slowly
#endif

inline int failures = 0, checks = 0;

inline void expect(bool holds, const std::string& what) {
  ++checks;
  if (holds) return;
  ++failures;
  if (failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}
