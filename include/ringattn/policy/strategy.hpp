// SPDX-License-Identifier: Apache-2.0
// Who travels. A strategy is a tag; a header under ring/ specialises Engine<Strategy, P> with the loop that carries it
// out.
#pragma once

#include "../config.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Queries stay, key/value blocks go round the ring; in the backward pass dK|dV ride along (Liu et al. 2023).
struct RotateKeys {
  static constexpr char const* name = "rotate keys";
};

/// The loop of a strategy for a policy: buffers, schedule, forward and backward. Specialised under ring/.
template <class Strategy, class P> class Engine;

}  // namespace ringattn
