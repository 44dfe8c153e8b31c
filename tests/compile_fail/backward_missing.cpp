// SPDX-License-Identifier: Apache-2.0
// backward() on a backend that has only a forward pass.
// expect: ringattn: Policy::Backend has no backward pass for this policy
#include "fakes.hpp"

void train(ringattn::RingAttention<fake::Policy>& ring) { ring.backward({}); }
