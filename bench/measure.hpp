// SPDX-License-Identifier: Apache-2.0
// What every benchmark of the CPU shares: clocks, inputs that can be made again elsewhere, and where figures are from.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <ringattn/ringattn.hpp>
#include <string>
#include <thread>
#include <vector>

#include "json.hpp"
#include "options.hpp"
#include "peak.hpp"

namespace bench {

using namespace ringattn;

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
/// Seconds of CPU time of all threads of this process: beside the wall time it shows whether the machine was ours.
inline double cpu_time() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

/// Unit variance and nearly normal: the sum of the four 16-bit parts of a hash of (seed, index). Integer arithmetic and
/// one rounding, so that peers/common.py makes the same numbers.
inline float input_value(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = (seed << 40) + index + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  auto const sum = std::int32_t((z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48)) - 131070;
  return float(sum) * (1.7320508f / 65536);
}

template <class T> void fill(Tensor<T>& t, std::uint64_t seed) {
  for (size_t i = 0; i < t.values().size(); ++i) t.values()[i] = T(input_value(seed, i));
}

template <class Precision> constexpr char const* precision_name() {
  using E = typename Precision::Element;
  if (std::is_same_v<E, BFloat16>) return "bf16";
  if (std::is_same_v<E, Float16>) return "fp16";
  return std::is_same_v<E, double> ? "fp64" : "fp32";
}
/// Which multiplier does the work. fp16 is widened to fp32.
template <class Precision> constexpr Unit unit_of() {
  using E = typename Precision::Element;
  if (std::is_same_v<E, double>) return Unit::fp64;
  return std::is_same_v<E, BFloat16> ? Unit::bf16 : Unit::fp32;
}
template <class Mask> constexpr bool is_causal = std::is_same_v<Mask, Causal>;

/// 4 N^2 D H forward, 10 N^2 D H backward (five products for two), half of it when causal: the diagonal's waste counts
/// against us.
inline double attention_flops(Problem problem, int head_dim, int value_dim, bool causal, bool backward) {
  Problem const p = problem.resolved();
  double const pairs = double(p.batch) * double(p.heads) * double(p.seq) * double(p.kv_seq) * (causal ? 0.5 : 1);
  return pairs * (backward ? 6.0 * head_dim + 4.0 * value_dim : 2.0 * head_dim + 2.0 * value_dim);
}

/// Where a figure comes from.
inline Json machine() {
  std::string model = "unknown", line;
  std::ifstream info("/proc/cpuinfo");
  while (std::getline(info, line)) {
    if (line.rfind("model name", 0) == 0) model = line.substr(line.find(':') + 2);
    if (line.rfind("cpu family", 0) == 0) model += ", family " + line.substr(line.find(':') + 2);
    if (line.rfind("model\t", 0) == 0) model += " model " + line.substr(line.find(':') + 2);
    if (line.empty()) break;
  }
#if defined(__clang__)
  std::string const compiler = std::string("clang++ ") + __clang_version__;
#else
  std::string const compiler = std::string("g++ ") + __VERSION__;
#endif
  return {
      {"cpu", model}, {"cores", int(std::thread::hardware_concurrency())}, {"isa", isa_name()}, {"compiler", compiler}};
}

}  // namespace bench
