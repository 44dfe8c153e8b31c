// SPDX-License-Identifier: Apache-2.0
// Everything a CPU-only user needs; RINGATTN_WITH_MPI adds the MPI communicator.
#pragma once

#include "comm/in_process.hpp"
#include "comm/solo.hpp"
#include "cpu/backend.hpp"
#include "ring/all_reduce.hpp"
#include "ring_attention.hpp"
#if defined(RINGATTN_WITH_MPI)
#include "comm/mpi.hpp"
#endif
