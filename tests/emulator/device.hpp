// SPDX-License-Identifier: Apache-2.0
// Devices, streams and events: work is queued by the host and executed, in a seeded order that CUDA allows, when
// somebody waits for it.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "exec.hpp"
#include "memory.hpp"

namespace emulator {

struct Stream;
struct Capture;

/// One piece of work: a kernel, a copy, an event, a function of the host.
struct Work {
  std::string name;
  std::function<void()> run;
  std::function<std::unique_ptr<Grid>()> start;  // kernels
  std::function<void(Work&)> queued;             // called when it is queued, in a graph at every launch
  bool unlocked = false;                         // host functions run without the runtime's lock
  std::vector<std::shared_ptr<Work>> after;      // besides its stream's order
  std::vector<uint32_t> host_seen;               // what the host knew to be done when it queued this
  // while and after it runs
  std::unique_ptr<Grid> grid;
  uint32_t actor = 0;
  std::vector<uint32_t> seen;
  bool started = false, done = false;
  bool outside = false;    // nobody's work: done when something else says so, e.g. a peer of a message
  double finished_at = 0;  // ms, for cudaEventElapsedTime
};

struct Stream {
  int device = 0;
  uint32_t id = 0, clock = 0;
  unsigned flags = 0;
  int priority = 0;
  bool null = false;  // the device's legacy stream
  std::deque<std::shared_ptr<Work>> queue;
  std::shared_ptr<Work> last;
  std::vector<uint32_t> seen;
  std::shared_ptr<Capture> capture;
};

struct Event {
  std::shared_ptr<Work> work;  // of the latest record
  std::shared_ptr<Capture> capture;
  unsigned flags = 0;
  int device = 0;
};

/// Work of a stream capture, in queueing order, and which of the captured streams each belongs to.
struct Capture {
  struct Node {
    std::shared_ptr<Work> work;
    size_t stream;
  };
  std::vector<Stream*> streams;
  std::vector<Node> nodes;
};

struct Machine {  // what the emulated card says it is
  int arch = 80, devices = 4, multiprocessors = 108;
  uint64_t shared_per_block() const {
    return arch == 86 || arch == 89 ? 99 * 1024 : arch >= 90 ? 227 * 1024 : 163 * 1024;
  }
  uint64_t shared_per_multiprocessor() const { return shared_per_block() + 1024; }
  int threads_per_multiprocessor() const { return arch == 86 || arch == 89 ? 1536 : 2048; }
};

class Runtime {
 public:
  static Runtime& get();

  std::recursive_mutex lock;
  Machine machine;
  std::mt19937_64 random;
  int callers = 0;         // host threads inside a call
  double last_call = 0;    // ms
  std::string fault_kind;  // of the first fault; everything fails from then on

  Stream* create_stream(int device, unsigned flags, int priority);
  void destroy_stream(Stream* stream);
  Stream* null_stream(int device);
  bool owns(Stream* stream) const { return streams_.count(stream) > 0; }

  void enqueue(Stream* stream, std::shared_ptr<Work> work);
  std::shared_ptr<Work> make(std::string name, std::function<void()> run) const;

  /// Executes until `done` holds or nothing is left to do; the lock must be held exactly once.
  template <class F> void run_until(F&& done) {
    while (!done() && step_unlocking()) {
    }
  }
  void some_progress();  // a random amount of work, as time passes between two questions
  bool idle(Stream const* stream) const { return stream->queue.empty(); }
  bool device_idle(int device) const;
  void host_saw(Work const& work);  // the host waited for it: what the host queues from here on is ordered behind
  void host_saw(Stream const& stream);
  void fail(Fault const& fault, std::string const& where);

  void begin_capture(Stream* stream);
  std::shared_ptr<Capture> end_capture(Stream* stream);
  void launch(Capture const& graph, std::vector<Stream*> const& lanes, Stream* stream);
  std::vector<Stream*> all_streams() const { return {streams_.begin(), streams_.end()}; }

 private:
  Runtime();
  bool step_unlocking();
  void run_when_idle();
  void start(Stream& stream, Work& work);
  void finish(Stream& stream, Work& work);

  struct ById {
    bool operator()(Stream const* a, Stream const* b) const { return a->id < b->id; }
  };
  std::set<Stream*, ById> ordered_;  // in creation order, so that a seed means the same in every run
  std::set<Stream*> streams_;
  std::vector<std::unique_ptr<Stream>> storage_;
  std::map<int, Stream*> null_streams_;
  std::vector<uint32_t> host_seen_;
  uint32_t next_stream_ = 0;
  uint64_t budget_ = 0;
  std::string counts_file_;  // that launches are counted in
  int host_functions_ = 0;
};

double now_ms();

}  // namespace emulator
