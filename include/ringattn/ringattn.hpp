// SPDX-License-Identifier: Apache-2.0
// Everything a CPU-only user needs but the transformer blocks (transformer/); RINGATTN_WITH_MPI adds the MPI
// communicator.
#pragma once

#include "comm/in_process.hpp"
#include "comm/solo.hpp"
#include "cpu/backend.hpp"
#include "plan/memory.hpp"
#include "plan/overlap.hpp"
#include "ring/all_reduce.hpp"
#include "ring_attention.hpp"
#if defined(RINGATTN_WITH_MPI)
#include "comm/mpi.hpp"
#endif
