// SPDX-License-Identifier: Apache-2.0
// Messages between streams: the work of both sides, tied by two facts that the other side makes true.
#include "runtime_message.hpp"

#include "runtime.hpp"

using namespace emulator;

namespace {

struct Message {
  std::shared_ptr<Work> offered, taken;  // in no queue: what the receiver and the sender wait for
  uint64_t from = 0;
  size_t bytes = 0;
  bool given_up = false;

  Message() : offered(fact()), taken(fact()) {}
  static std::shared_ptr<Work> fact() {
    auto work = std::make_shared<Work>();
    work->outside = true;
    return work;
  }
};

/// The fact is true from here on, and whoever waited for it has seen what `by` has.
void establish(Work& fact, Work const& by) {
  fact.seen = by.seen;
  fact.done = true;
}

}  // namespace

struct RingattnEmulatorMessage {
  std::shared_ptr<Message> message = std::make_shared<Message>();
};

extern "C" {

RingattnEmulatorMessage* ringattn_emulator_message() { return new RingattnEmulatorMessage; }
void ringattn_emulator_forget(RingattnEmulatorMessage* message) { delete message; }

cudaError_t ringattn_emulator_send(RingattnEmulatorMessage* handle, cudaStream_t stream, void const* from,
                                   size_t bytes) {
  return api([&](Runtime& r) {
    refuse_capture(stream_of(stream));
    auto const m = handle->message;
    m->from = reinterpret_cast<uint64_t>(from);
    m->bytes = bytes;
    auto const work = r.make("NCCL: send", nullptr);
    work->run = [m, w = work.get()] { establish(*m->offered, *w); };
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}

cudaError_t ringattn_emulator_receive(RingattnEmulatorMessage* handle, cudaStream_t stream, void* to, size_t bytes) {
  return api([&](Runtime& r) {
    refuse_capture(stream_of(stream));
    auto const m = handle->message;
    auto const work = r.make("NCCL: receive", nullptr);
    work->after.push_back(m->offered);
    work->run = [m, to, bytes, w = work.get()] {
      if (!m->given_up) {
        if (m->bytes != bytes)
          throw Fault("message", "a send of " + std::to_string(m->bytes) + " bytes meets a receive of " +
                                     std::to_string(bytes) + ", which NCCL does not define");
        Memory::get().copy(reinterpret_cast<uint64_t>(to), m->from, bytes);
      }
      establish(*m->taken, *w);
    };
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}

cudaError_t ringattn_emulator_sent(RingattnEmulatorMessage* handle, cudaStream_t stream) {
  return api([&](Runtime& r) {
    auto const work = r.make("NCCL: sent", nullptr);
    work->after.push_back(handle->message->taken);
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}

void ringattn_emulator_give_up(RingattnEmulatorMessage* handle, bool is_send) {
  (void)api([&](Runtime&) {
    Message& m = *handle->message;
    m.given_up = true;
    (is_send ? m.taken : m.offered)->done = true;
    return cudaSuccess;
  });
}
}
