// SPDX-License-Identifier: Apache-2.0
// A look-alike of libnccl.so.2 for ranks that are threads of one process, on the emulated runtime: communicators,
// sends and receives, and failures on demand.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "runtime_message.hpp"

namespace {

/// One message of a pair, made by whichever side comes first.
struct Meeting {
  RingattnEmulatorMessage* message = ringattn_emulator_message();
  bool send_here = false, receive_here = false;
  ~Meeting() { ringattn_emulator_forget(message); }
};

/// A split of a rank: where the new communicator is to be written, once all have come.
struct Split {
  ncclComm *parent, *child;
  ncclComm** out;
};

/// What the ranks of a communicator share.
struct World {
  int size = 0, joined = 0;
  std::map<std::tuple<int, int, uint64_t>, std::shared_ptr<Meeting>> meetings;  // from, to, number
  std::map<int, std::shared_ptr<World>> children;                               // by number of the split
  std::vector<Split> splits_under_way;                                          // that made this world
};

std::mutex mutex;
std::condition_variable changed;
std::map<std::string, std::shared_ptr<World>> worlds;  // by unique id
uint64_t ids = 0;

/// Failures to come: of a rank, at its so many-th group.
struct Failure {
  int rank, group;
  ncclResult_t result;
};
std::vector<Failure> failures;

std::atomic<int> left = 0;  // communicators that nobody has ended

}  // namespace

struct ncclComm {
  struct Operation {
    bool is_send;
    void* data;
    size_t bytes;
    int peer;
    cudaStream_t stream;
  };
  std::shared_ptr<World> world;
  int rank = 0, device = 0, groups = 0, splits = 0;
  bool blocking = true, failed = false, finalized = false;
  std::shared_ptr<World> splitting;  // while a split of this one is under way: the world to be
  ncclResult_t failure = ncclSuccess;
  int busy = 0;  // so many questions will be answered by "in progress"; then `held` is posted
  std::vector<Operation> held;
  std::map<std::pair<bool, int>, uint64_t> numbers;  // of messages so far, by direction and peer
  std::vector<std::pair<std::shared_ptr<Meeting>, bool>> mine;

  ncclComm() { ++left; }
  ~ncclComm() { --left; }
};

namespace {

thread_local int depth = 0;
thread_local std::vector<std::pair<ncclComm*, ncclComm::Operation>> group;

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 4;
  }
}

/// All sends first, then the receives, then the waits of the sends: in a group nothing waits for the others in it.
ncclResult_t post(ncclComm& c, std::vector<ncclComm::Operation> const& operations) {
  std::vector<std::pair<ncclComm::Operation, std::shared_ptr<Meeting>>> all;
  for (auto const& o : operations) {
    uint64_t const number = c.numbers[{o.is_send, o.peer}]++;
    auto const key = o.is_send ? std::tuple(c.rank, o.peer, number) : std::tuple(o.peer, c.rank, number);
    auto& meeting = c.world->meetings[key];
    if (!meeting) meeting = std::make_shared<Meeting>();
    (o.is_send ? meeting->send_here : meeting->receive_here) = true;
    all.emplace_back(o, meeting);
    c.mine.emplace_back(meeting, o.is_send);
    if (meeting->send_here && meeting->receive_here) c.world->meetings.erase(key);
  }
  cudaError_t worst = cudaSuccess;
  auto const note = [&](cudaError_t e) { worst = e != cudaSuccess ? e : worst; };
  for (auto const& [o, m] : all)
    if (o.is_send) note(ringattn_emulator_send(m->message, o.stream, o.data, o.bytes));
  for (auto const& [o, m] : all)
    if (!o.is_send) note(ringattn_emulator_receive(m->message, o.stream, o.data, o.bytes));
  for (auto const& [o, m] : all)
    if (o.is_send) note(ringattn_emulator_sent(m->message, o.stream));
  if (c.mine.size() > 1024) c.mine.erase(c.mine.begin(), c.mine.begin() + 512);
  return worst == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

bool complete(ncclComm const& c) { return c.world->joined == c.world->size; }

/// The state of a communicator; what takes time goes on a little.
ncclResult_t ask(ncclComm& c) {
  if (c.failed) return c.failure;
  if (!complete(c) || c.splitting) return ncclInProgress;
  if (c.busy > 0 && --c.busy > 0) return ncclInProgress;
  if (!c.held.empty()) {
    auto const now = std::move(c.held);
    c.held.clear();
    ncclResult_t const r = post(c, now);
    if (r != ncclSuccess) {
      c.failed = true;
      c.failure = r;
      return r;
    }
  }
  auto const exchanged = [](auto const& m) { return ringattn_emulator_exchanged(m.first->message); };
  return !c.finalized || std::all_of(c.mine.begin(), c.mine.end(), exchanged) ? ncclSuccess : ncclInProgress;
}

ncclComm* join(std::shared_ptr<World> world, int rank, bool blocking) {
  auto* const c = new ncclComm;
  c->world = std::move(world);
  c->rank = rank;
  c->blocking = blocking;
  (void)cudaGetDevice(&c->device);
  ++c->world->joined;
  changed.notify_all();
  return c;
}

ncclResult_t make(ncclComm_t* out, std::shared_ptr<World> world, int rank, bool blocking,
                  std::unique_lock<std::mutex>& lock) {
  ncclComm* const c = *out = join(std::move(world), rank, blocking);
  if (!blocking) return complete(*c) ? ncclSuccess : ncclInProgress;
  changed.wait(lock, [&] { return complete(*c); });
  return ncclSuccess;
}

ncclResult_t operation(bool is_send, void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                       cudaStream_t stream) {
  if (!comm || peer < 0 || peer >= comm->world->size) return ncclInvalidArgument;
  bool const alone = depth == 0;
  if (alone) ncclGroupStart();
  group.push_back({comm, {is_send, data, count * size_of(type), peer, stream}});
  return alone ? ncclGroupEnd() : ncclSuccess;
}

}  // namespace

extern "C" {

/// The group of `rank` that is its so many-th from now on (0: the next) fails with `result`, once; in every
/// communicator of the process. ncclInProgress: it never ends.
void ringattn_nccl_inject(int rank, int in_groups, ncclResult_t result) {
  std::lock_guard lock(mutex);
  failures.push_back({rank, in_groups, result});
}
void ringattn_nccl_forget_failures() {
  std::lock_guard lock(mutex);
  failures.clear();
}
/// Communicators that were neither destroyed nor aborted so far.
int ringattn_nccl_left() { return left; }

ncclResult_t ncclGetVersion(int* version) { return *version = NCCL_VERSION_CODE, ncclSuccess; }
char const* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    default:
      return "error";
  }
}
char const* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::lock_guard lock(mutex);
  std::memset(id, 0, sizeof *id);
  uint64_t const number = ++ids;
  std::memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  std::unique_lock lock(mutex);
  auto& world = worlds[std::string(id.internal, sizeof id.internal)];
  if (!world) world = std::make_shared<World>();
  world->size = size;
  return make(comm, world, rank, !config || config->blocking != 0, lock);
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, size, id, rank, nullptr);
}
/// All ranks with one color, keys in rank order. Carried out under the parent, as in NCCL: whether the parent is
/// blocking decides whether the call blocks, the parent is asked how it stands, and *comm is null until NCCL writes it,
/// late.
ncclResult_t ncclCommSplit(ncclComm_t parent, int, int key, ncclComm_t* comm, ncclConfig_t* config) {
  std::unique_lock lock(mutex);
  if (key != parent->rank || ask(*parent) != ncclSuccess) return ncclInvalidArgument;
  auto const world = [&] {
    auto& w = parent->world->children[parent->splits++];
    if (!w) w = std::make_shared<World>();
    return w;
  }();
  world->size = parent->world->size;
  *comm = nullptr;
  ncclComm* const child = join(world, key, config ? config->blocking != 0 : parent->blocking);
  parent->splitting = world;
  world->splits_under_way.push_back({parent, child, comm});
  if (world->joined == world->size) {
    for (Split const& s : world->splits_under_way) {
      *s.out = s.child;
      s.parent->splitting = nullptr;
    }
    world->splits_under_way.clear();
    changed.notify_all();
  }
  if (!parent->blocking) return parent->splitting ? ncclInProgress : ncclSuccess;
  changed.wait(lock, [&] { return !parent->splitting; });
  return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t const comm, int* count) { return *count = comm->world->size, ncclSuccess; }
ncclResult_t ncclCommUserRank(ncclComm_t const comm, int* rank) { return *rank = comm->rank, ncclSuccess; }
ncclResult_t ncclCommCuDevice(ncclComm_t const comm, int* device) { return *device = comm->device, ncclSuccess; }

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  std::lock_guard lock(mutex);
  *result = ask(*comm);
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  std::lock_guard lock(mutex);
  comm->finalized = true;
  return comm->failed ? comm->failure : comm->blocking ? ncclSuccess : ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    std::lock_guard lock(mutex);
    for (auto const& [meeting, is_send] : comm->mine) ringattn_emulator_give_up(meeting->message, is_send);
    if (comm->splitting)
      std::erase_if(comm->splitting->splits_under_way, [&](Split const& s) {
        if (s.parent == comm) delete s.child;
        return s.parent == comm;
      });
  }
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() { return ++depth, ncclSuccess; }
ncclResult_t ncclGroupEnd() {
  if (depth == 0) return ncclInvalidUsage;
  if (--depth > 0) return ncclSuccess;
  std::lock_guard lock(mutex);
  std::map<ncclComm*, std::vector<ncclComm::Operation>> of_comm;
  for (auto const& [comm, o] : group) of_comm[comm].push_back(o);
  group.clear();
  ncclResult_t worst = ncclSuccess;
  for (auto& [comm, operations] : of_comm) {
    if (!complete(*comm) || !comm->held.empty() || comm->failed) return ncclInvalidUsage;
    int const number = comm->groups++;
    for (Failure& f : failures) {
      if (f.rank != comm->rank || f.group-- > 0) continue;
      comm->failed = true;
      comm->failure = f.result;
      f.rank = -1;
    }
    ncclResult_t r = ncclSuccess;
    if (comm->failed)
      r = ncclSuccess;  // noticed later, when somebody asks
    else if (comm->blocking || number % 3 != 0)
      r = post(*comm, operations);
    else {  // as when connections have to be made first
      comm->busy = 1 + number % 4;
      comm->held = std::move(operations);
      r = ncclInProgress;
    }
    if (r != ncclSuccess) worst = r;
  }
  return worst;
}
ncclResult_t ncclSend(void const* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return operation(true, const_cast<void*>(data), count, type, peer, comm, stream);
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return operation(false, data, count, type, peer, comm, stream);
}
}
