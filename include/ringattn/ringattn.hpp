// SPDX-License-Identifier: Apache-2.0
// Everything a CPU-only user needs but the transformer blocks (transformer/); RINGATTN_WITH_MPI adds the MPI
// communicator, RINGATTN_WITH_CUDA the CUDA backend (compile with nvcc) and CudaPeer, RINGATTN_WITH_NCCL Nccl.
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
#if defined(RINGATTN_WITH_CUDA)
#include "comm/cuda_peer.hpp"
#include "cuda/backend.cuh"
#endif
#if defined(RINGATTN_WITH_NCCL)
#include "comm/nccl.hpp"
#endif
