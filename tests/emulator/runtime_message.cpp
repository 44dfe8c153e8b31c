// SPDX-License-Identifier: Apache-2.0
// Messages between streams: the work of both sides, tied by two facts that the other side makes true.
#include "runtime_message.hpp"

#include <algorithm>

#include "runtime.hpp"

using namespace emulator;

namespace {

/// What one side waits for and the other makes true; in no queue.
std::shared_ptr<Work> fact() {
  auto work = std::make_shared<Work>();
  work->outside = true;
  return work;
}

/// The message is exchanged once, or, captured in graphs, once per launch.
struct Message {
  struct Round {
    std::shared_ptr<Work> offered = fact(), taken = fact();
  };
  std::deque<Round> rounds;
  size_t sends = 0, receives = 0, waits = 0;  // rounds that each part of the work has reached
  uint64_t from = 0;
  size_t bytes = 0;
  bool given_up = false;

  Round round(size_t& reached) {
    if (reached == rounds.size()) rounds.emplace_back();
    return rounds[reached++];
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
    auto const m = handle->message;
    m->from = reinterpret_cast<uint64_t>(from);
    m->bytes = bytes;
    auto const work = r.make("NCCL: send", nullptr);
    work->queued = [m](Work& w) { w.run = [offered = m->round(m->sends).offered, &w] { establish(*offered, w); }; };
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}

cudaError_t ringattn_emulator_receive(RingattnEmulatorMessage* handle, cudaStream_t stream, void* to, size_t bytes) {
  return api([&](Runtime& r) {
    auto const m = handle->message;
    auto const work = r.make("NCCL: receive", nullptr);
    work->queued = [m, to, bytes](Work& w) {
      auto const round = m->round(m->receives);
      w.after.push_back(round.offered);
      w.run = [m, to, bytes, taken = round.taken, &w] {
        if (!m->given_up) {
          if (m->bytes != bytes)
            throw Fault("message", "a send of " + std::to_string(m->bytes) + " bytes meets a receive of " +
                                       std::to_string(bytes) + ", which NCCL does not define");
          Memory::get().copy(reinterpret_cast<uint64_t>(to), m->from, bytes);
        }
        establish(*taken, w);
      };
    };
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}

cudaError_t ringattn_emulator_sent(RingattnEmulatorMessage* handle, cudaStream_t stream) {
  return api([&](Runtime& r) {
    auto const work = r.make("NCCL: sent", nullptr);
    work->queued = [m = handle->message](Work& w) { w.after.push_back(m->round(m->waits).taken); };
    r.enqueue(stream_of(stream), work);
    return cudaSuccess;
  });
}

bool ringattn_emulator_exchanged(RingattnEmulatorMessage* handle) {
  std::lock_guard guard(
      Runtime::get().lock);  // no call of CUDA: a host that only asks NCCL leaves the device to itself
  auto const& rounds = handle->message->rounds;
  return std::all_of(rounds.begin(), rounds.end(), [](auto const& round) { return round.taken->done; });
}

void ringattn_emulator_give_up(RingattnEmulatorMessage* handle, bool is_send) {
  (void)api([&](Runtime&) {
    Message& m = *handle->message;
    m.given_up = true;
    for (auto const& round : m.rounds) (is_send ? round.taken : round.offered)->done = true;
    return cudaSuccess;
  });
}
}
