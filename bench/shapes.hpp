// SPDX-License-Identifier: Apache-2.0
// The shapes that are measured, here and in the peers' scripts (which ask for `attention --list`).
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace bench {

struct Shape {
  char const* precision;
  char const* mask;
  int head_dim;
  std::int64_t seq;
  std::int64_t heads = 2, kv_heads = 2, batch = 1;
  std::int64_t queries = 0;  ///< 0: seq; else the last tokens of a sequence that is in the cache, forward only

  /// What --only and targets.json select by.
  std::string name() const {
    return std::string(precision) + "-" + mask + "-d" + std::to_string(head_dim) + "-n" + std::to_string(seq) + "-h" +
           std::to_string(heads) + "x" + std::to_string(kv_heads) + "-b" + std::to_string(batch) +
           (queries > 0 ? "-q" + std::to_string(queries) : "");
  }
};

inline constexpr std::array shapes = {
    // Long sequences: the ones with targets.
    Shape{"fp32", "full", 128, 4096},
    Shape{"fp32", "full", 64, 4096},
    Shape{"fp32", "causal", 128, 4096},
    Shape{"fp32", "causal", 64, 4096},
    Shape{"fp32", "full", 128, 8192},
    Shape{"fp32", "full", 64, 8192},
    Shape{"fp32", "causal", 128, 8192},
    Shape{"fp32", "causal", 64, 8192},
    Shape{"bf16", "full", 128, 4096},
    Shape{"bf16", "full", 64, 4096},
    Shape{"bf16", "causal", 128, 4096},
    Shape{"bf16", "causal", 64, 4096},
    Shape{"bf16", "full", 128, 8192},
    Shape{"bf16", "full", 64, 8192},
    Shape{"bf16", "causal", 128, 8192},
    Shape{"bf16", "causal", 64, 8192},
    // One head: few units for threads to share.
    Shape{"fp32", "full", 64, 4096, 1, 1},
    Shape{"fp32", "causal", 64, 4096, 1, 1},
    // Short ones.
    Shape{"fp32", "full", 128, 512, 8, 8},
    Shape{"fp32", "full", 64, 512, 8, 8},
    Shape{"fp32", "causal", 64, 512, 8, 8},
    Shape{"fp32", "full", 64, 1024, 8, 8},
    Shape{"bf16", "full", 64, 1024, 8, 8},
    // Other dimensions and precisions.
    Shape{"fp32", "full", 32, 4096},
    Shape{"fp32", "full", 96, 4096},
    Shape{"fp32", "full", 80, 4096},
    Shape{"fp32", "full", 256, 4096},
    Shape{"bf16", "full", 96, 4096},
    Shape{"bf16", "full", 256, 4096},
    Shape{"fp16", "full", 64, 4096},
    Shape{"fp16", "causal", 64, 4096},
    Shape{"fp64", "full", 64, 2048},
    Shape{"fp64", "causal", 64, 2048},
    // As in models: 12 heads of 64 in a batch (GPT-2), 8 query heads that share 2 key heads, and no round number.
    Shape{"fp32", "causal", 64, 1024, 12, 12, 2},
    Shape{"bf16", "causal", 64, 1024, 12, 12, 2},
    Shape{"bf16", "causal", 128, 2048, 8, 2},
    Shape{"fp32", "causal", 128, 2048, 8, 2},
    Shape{"fp32", "causal", 64, 1999, 3, 1},
    // Decoding: few queries, many keys.
    Shape{"fp32", "full", 128, 8192, 8, 8, 1, 1},
    Shape{"fp32", "full", 128, 8192, 8, 2, 1, 1},
    Shape{"fp32", "full", 128, 8192, 8, 2, 1, 8},
    Shape{"fp32", "full", 128, 8192, 8, 2, 1, 16},
    Shape{"bf16", "full", 128, 8192, 8, 2, 1, 1},
    Shape{"bf16", "full", 128, 8192, 8, 2, 1, 16},
    Shape{"fp32", "full", 128, 8192, 64, 1, 1, 1},
    Shape{"bf16", "full", 128, 8192, 64, 1, 1, 1},
};

}  // namespace bench
