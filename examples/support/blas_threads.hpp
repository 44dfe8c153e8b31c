// SPDX-License-Identifier: Apache-2.0
// Tells BLAS to stay on the thread that calls it.
#pragma once

#if defined(RINGATTN_WITH_BLAS)
// OpenBLAS's own; other libraries lack it.
extern "C" void openblas_set_num_threads(int) __attribute__((weak));
#endif

namespace example {

/// Every rank calls BLAS from its own thread; threads inside BLAS would only fight over the cores. Call once, first.
inline void single_threaded_blas() {
#if defined(RINGATTN_WITH_BLAS)
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
#endif
}

}  // namespace example
