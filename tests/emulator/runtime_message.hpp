// SPDX-License-Identifier: Apache-2.0
// Not CUDA's: a message from one stream to another that each reaches in its own time, as kernels of NCCL do.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

extern "C" {

struct RingattnEmulatorMessage;

RingattnEmulatorMessage* ringattn_emulator_message();
void ringattn_emulator_forget(RingattnEmulatorMessage* message);
/// The sender's stream has got as far as the message; it goes on.
cudaError_t ringattn_emulator_send(RingattnEmulatorMessage* message, cudaStream_t stream, void const* from,
                                   std::size_t bytes);
/// The receiver's stream waits for the sender's, then copies.
cudaError_t ringattn_emulator_receive(RingattnEmulatorMessage* message, cudaStream_t stream, void* to,
                                      std::size_t bytes);
/// The sender's stream waits until the receiver's has copied.
cudaError_t ringattn_emulator_sent(RingattnEmulatorMessage* message, cudaStream_t stream);
/// Whether it has been exchanged, in every launch so far.
bool ringattn_emulator_exchanged(RingattnEmulatorMessage* message);
/// One side waits no more, and nothing is copied that has not been.
void ringattn_emulator_give_up(RingattnEmulatorMessage* message, bool is_send);
}
