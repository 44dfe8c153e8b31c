// SPDX-License-Identifier: Apache-2.0
// What the planner knows of a machine, and the machines of the paper and of today as constants.
#pragma once

#include "../config.hpp"

namespace ringattn::inline RINGATTN_ABI::plan {

/// One rank's device and its link to the next rank. Plain numbers: put in what you measured.
struct Hardware {
  char const* name = "";
  double flops = 0;             ///< FLOP/s, peak or achieved; see `at`
  double memory_bytes = 0;      ///< capacity, bytes
  double memory_bandwidth = 0;  ///< bytes/s; 0: never the bottleneck
  double link_bandwidth = 0;    ///< bytes/s to the next rank, one way
  double latency = 0;           ///< seconds per message, before its first byte arrives

  /// The same machine when it achieves this part of its FLOP/s.
  constexpr Hardware at(double utilisation) const {
    Hardware h = *this;
    h.flops *= utilisation;
    return h;
  }
  /// The paper's F/B in tokens: FLOPs that can be done while one byte is sent.
  constexpr double flops_per_byte() const { return flops / link_bandwidth; }
};

// Peak dense bf16. FLOP/s, capacity and link of the first five as in table 2 of Liu et al. 2023; memory bandwidths and
// the H100 as their vendors say.
inline constexpr Hardware a100_nvlink{"A100, NVLink", 312e12, 80e9, 2039e9, 300e9};
inline constexpr Hardware a100_infiniband{"A100, InfiniBand", 312e12, 80e9, 2039e9, 12.5e9};
inline constexpr Hardware tpu_v3{"TPU v3", 123e12, 16e9, 900e9, 112e9};
inline constexpr Hardware tpu_v4{"TPU v4", 275e12, 32e9, 1228e9, 268e9};
inline constexpr Hardware tpu_v5e{"TPU v5e", 196e12, 16e9, 819e9, 186e9};
inline constexpr Hardware h100_nvlink{"H100, NVLink", 989.5e12, 80e9, 3352e9, 450e9};
inline constexpr Hardware h100_infiniband{"H100, 400 Gb/s InfiniBand", 989.5e12, 80e9, 3352e9, 50e9};

}  // namespace ringattn::plan
