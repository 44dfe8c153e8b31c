// SPDX-License-Identifier: Apache-2.0
// Streams, events and the seeded choice of what runs next.
#include "device.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace emulator {
namespace {
void join(std::vector<uint32_t>& into, std::vector<uint32_t> const& from) {
  into.resize(std::max(into.size(), from.size()));
  for (size_t k = 0; k < from.size(); ++k) into[k] = std::max(into[k], from[k]);
}
uint64_t setting(char const* name, uint64_t otherwise) {
  char const* const text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 0) : otherwise;
}
}  // namespace

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Runtime& Runtime::get() {
  static auto* const runtime = new Runtime;  // never destroyed: programs call it from destructors of statics
  return *runtime;
}

Runtime::Runtime() {
  machine.arch = static_cast<int>(setting("RINGATTN_EMULATOR_ARCH", 80));
  machine.devices = static_cast<int>(setting("RINGATTN_EMULATOR_DEVICES", 4));
  budget_ = setting("RINGATTN_EMULATOR_BUDGET", uint64_t{1} << 32);
  random.seed(setting("RINGATTN_EMULATOR_SEED", 1));
  if (char const* const file = std::getenv("RINGATTN_EMULATOR_COUNTS")) counts_file_ = file;
  std::thread([this] { run_when_idle(); }).detach();
}

/// A card works while the host does something else. Here it does so only when no host thread has called for a while
/// (one may wait for what a host function or a store to pinned memory will tell it), so that a seed still means one
/// schedule.
void Runtime::run_when_idle() {
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::lock_guard guard(lock);
    if (callers == 0 && now_ms() - last_call > 50) step_unlocking();
  }
}

Stream* Runtime::create_stream(int device, unsigned flags, int priority) {
  auto& stream = storage_.emplace_back(std::make_unique<Stream>());
  stream->device = device;
  stream->id = next_stream_++;
  stream->flags = flags;
  stream->priority = priority;
  streams_.insert(stream.get());
  ordered_.insert(stream.get());
  return stream.get();
}

void Runtime::destroy_stream(Stream* stream) {  // what is queued still runs
  stream->flags |= 1u << 31;
  if (!stream->queue.empty()) return;
  streams_.erase(stream);
  ordered_.erase(stream);
}

Stream* Runtime::null_stream(int device) {
  Stream*& stream = null_streams_[device];
  if (!stream) {
    stream = create_stream(device, 0, 0);
    stream->null = true;
  }
  return stream;
}

std::shared_ptr<Work> Runtime::make(std::string name, std::function<void()> run) const {
  auto work = std::make_shared<Work>();
  work->name = std::move(name);
  work->run = std::move(run);
  return work;
}

void Runtime::enqueue(Stream* stream, std::shared_ptr<Work> work) {
  if (stream->capture) {
    auto& capture = *stream->capture;
    auto const at = std::find(capture.streams.begin(), capture.streams.end(), stream);
    capture.nodes.push_back({work, static_cast<size_t>(at - capture.streams.begin())});
    return;
  }
  if (!fault_kind.empty()) {
    work->done = true;
    return;
  }
  constexpr unsigned non_blocking = 1;
  if (stream->null) {  // the legacy stream waits for all others of its device, and they for it
    for (Stream* const other : ordered_) {
      if (other != stream && other->device == stream->device && !(other->flags & non_blocking) && other->last)
        work->after.push_back(other->last);
    }
  } else if (!(stream->flags & non_blocking)) {
    auto const null = null_streams_.find(stream->device);
    if (null != null_streams_.end() && null->second->last) work->after.push_back(null->second->last);
  }
  if (work->queued) work->queued(*work);
  work->host_seen = host_seen_;
  stream->queue.push_back(work);
  stream->last = std::move(work);
}

void Runtime::start(Stream& stream, Work& work) {
  join(stream.seen, work.host_seen);
  for (auto const& before : work.after) join(stream.seen, before->seen);
  stream.seen.resize(std::max<size_t>(stream.seen.size(), stream.id + 1));
  stream.seen[stream.id] = ++stream.clock;
  work.seen = stream.seen;
  work.actor = Memory::get().begin_actor({work.name, stream.id, stream.clock, work.seen});
  work.started = true;
}

void Runtime::finish(Stream& stream, Work& work) {
  work.done = true;
  work.finished_at = now_ms();
  work.grid.reset();
  work.after.clear();
  work.run = nullptr;
  work.start = nullptr;
  if (!stream.queue.empty()) stream.queue.pop_front();
  if (stream.flags >> 31 && stream.queue.empty()) {
    streams_.erase(&stream);
    ordered_.erase(&stream);
  }
}

/// One piece of work, or a slice of a kernel, of a stream chosen at random. False: nothing is left.
bool Runtime::step_unlocking() {
  std::vector<Stream*> ready;
  bool pending = false, outside = false;
  for (Stream* const s : ordered_) {
    if (s->queue.empty()) continue;
    pending = true;
    Work const& work = *s->queue.front();
    if (work.started && work.unlocked) continue;
    if (std::all_of(work.after.begin(), work.after.end(), [](auto const& w) { return w->done; })) ready.push_back(s);
    for (auto const& before : work.after) outside = outside || (before->outside && !before->done);
  }
  if (ready.empty()) {
    if (pending && host_functions_ == 0 && !outside) {
      fail(Fault("deadlock", "streams wait for events of each other"), "");
      return false;
    }
    if (!pending) return false;
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    lock.lock();
    return true;
  }
  Stream& stream = *ready[random() % ready.size()];
  std::shared_ptr<Work> const work = stream.queue.front();
  if (!work->started) start(stream, *work);
  Memory::get().set_actor(work->actor);
  try {
    if (work->unlocked) {
      ++host_functions_;
      lock.unlock();
      work->run();
      lock.lock();
      --host_functions_;
      finish(stream, *work);
    } else if (work->start) {
      if (!work->grid) {
        work->grid = work->start();
        if (!counts_file_.empty()) work->grid->counts.emplace();
      }
      Grid& grid = *work->grid;
      if (!grid.run(static_cast<uint32_t>(random() % 16384 + 1))) {
        throw Fault("deadlock", "no warp can run; every one waits:\n  " + grid.describe());
      }
      if (grid.executed > budget_) {
        throw Fault("deadlock",
                    "the kernel does not end (RINGATTN_EMULATOR_BUDGET instructions are spent):\n  " + grid.describe());
      }
      if (grid.done()) {
        if (grid.counts) grid.counts->write(counts_file_, grid.launch);
        finish(stream, *work);
      }
    } else {
      if (work->run) work->run();
      finish(stream, *work);
    }
  } catch (Fault const& f) {
    fail(f, work->start ? "" : "'" + work->name + "': ");
  }
  Memory::get().set_actor(0);
  lock.unlock();  // other threads of the host get their turn
  lock.lock();
  return true;
}

void Runtime::fail(Fault const& fault, std::string const& where) {
  report(fault.kind + ": " + where + fault.what() + "\n  (seed " +
         std::to_string(setting("RINGATTN_EMULATOR_SEED", 1)) + ")");
  if (fault_kind.empty()) fault_kind = fault.kind;
  for (Stream* const s : ordered_) {
    for (auto const& work : s->queue) work->done = true;
    s->queue.clear();
  }
}

void Runtime::some_progress() {
  for (uint64_t steps = random() % 4; steps > 0 && step_unlocking(); --steps) {
  }
}

bool Runtime::device_idle(int device) const {
  return std::all_of(ordered_.begin(), ordered_.end(),
                     [&](Stream const* s) { return s->device != device || s->queue.empty(); });
}

void Runtime::host_saw(Work const& work) { join(host_seen_, work.seen); }
void Runtime::host_saw(Stream const& stream) { join(host_seen_, stream.seen); }

// ---------------------------------------------------------------- graphs
void Runtime::begin_capture(Stream* stream) {
  stream->capture = std::make_shared<Capture>();
  stream->capture->streams.push_back(stream);
}

std::shared_ptr<Capture> Runtime::end_capture(Stream* stream) {
  auto const capture = stream->capture;
  for (Stream* const s : capture->streams) s->capture = nullptr;
  return capture;
}

/// Each captured stream gets one of the graph's own; the launching stream waits for all of them.
void Runtime::launch(Capture const& graph, std::vector<Stream*> const& lanes, Stream* stream) {
  auto const begin = make("graph begins", nullptr);
  enqueue(stream, begin);
  std::map<Work const*, std::shared_ptr<Work>> copies;
  std::vector<bool> used(lanes.size());
  for (auto const& [work, lane] : graph.nodes) {
    auto copy = std::make_shared<Work>();
    copy->name = work->name;
    copy->run = work->run;
    copy->start = work->start;
    copy->unlocked = work->unlocked;
    copy->queued = work->queued;
    if (!used[lane]) copy->after.push_back(begin);
    used[lane] = true;
    for (auto const& before : work->after) {
      auto const found = copies.find(before.get());
      if (found != copies.end()) copy->after.push_back(found->second);
    }
    copies[work.get()] = copy;
    enqueue(lanes[lane], copy);
  }
  auto const end = make("graph ends", nullptr);
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    if (used[lane]) end->after.push_back(lanes[lane]->last);
  }
  enqueue(stream, end);
}

}  // namespace emulator
