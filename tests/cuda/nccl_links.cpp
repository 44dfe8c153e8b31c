// SPDX-License-Identifier: Apache-2.0
// Built, not run: Nccl compiles and links against the real NCCL.
#include <ringattn/comm/in_process.hpp>
#include <ringattn/comm/nccl.hpp>

struct Backend {
  using Space = ringattn::DeviceSpace;
  int device() const { return 0; }
  cudaStream_t stream() const { return nullptr; }
};

int main() {
  ringattn::run_ranks(1, [](ringattn::InProcess& host) {
    ringattn::Nccl<ringattn::InProcess> comm(host, 0);
    Backend backend;
    comm.exchange(backend, {}, {}).wait_for(backend, std::chrono::seconds(1));
  });
}
