// SPDX-License-Identifier: Apache-2.0
// What every transport must do, as functions that all ranks of a ring call together. A failure is thrown.
#pragma once

#include <ringattn/concepts.hpp>
#include <ringattn/error.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ringattn::test {

using namespace std::chrono_literals;

inline void require(bool ok, std::string const& what) {
  if (!ok) throw std::runtime_error("not so: " + what);
}

/// Waits as the core does: in slices, with a deadline.
template <class C, class T> void wait_all(C& comm, T& transfer) {
  HostControl host;
  auto const end = std::chrono::steady_clock::now() + 60s;
  while (!transfer.wait_for(host, 20ms)) {
    if (auto const reason = comm.aborted()) throw Error(ErrorCode::aborted, comm.rank(), "transfer", "", *reason);
    require(std::chrono::steady_clock::now() < end, "arrives within a minute");
  }
}

using Bytes = std::vector<std::byte>;

/// Content that tells sender, receiver and number. Repeats after a prime number of bytes, so that chunks differ.
inline Bytes message(size_t size, int from, int to, int number = 0) {
  constexpr size_t period = 1021;
  Bytes b(size);
  unsigned x = 1u + unsigned(from) * 1009u + unsigned(to) * 9176u + unsigned(number) * 31337u;
  for (size_t i = 0; i < std::min(size, period); ++i) b[i] = std::byte((x = x * 1664525u + 1013904223u) >> 24);
  for (size_t done = period; done < size; done *= 2) std::memcpy(&b[done], b.data(), std::min(done, size - done));
  return b;
}

/// The messages of one exchange with their memory.
struct Mail {
  std::vector<Bytes> out, in, expected;
  std::vector<Send> sends;
  std::vector<Recv> recvs;

  Mail() {
    for (auto* v : {&out, &in, &expected}) v->reserve(64);
  }
  void send(int from, int to, size_t size, int number = 0) {
    out.push_back(message(size, from, to, number));
    sends.push_back({to, out.back()});
  }
  void receive(int from, int to, size_t size, int number = 0) {
    expected.push_back(message(size, from, to, number));
    in.emplace_back(size);
    recvs.push_back({from, in.back()});
  }
  void check() const { require(in == expected, "what was sent arrives"); }
};

template <class C> auto post(C& comm, Mail& mail) {
  HostControl host;
  return comm.exchange(host, mail.sends, mail.recvs);
}

template <class C> std::vector<int> gather(C& comm, int mine) {
  std::vector<int> all(size_t(comm.size()), -1);
  auto t = comm.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  wait_all(comm, t);
  return all;
}

template <class C> int next(C const& comm) { return (comm.rank() + 1) % comm.size(); }
template <class C> int previous(C const& comm) { return (comm.rank() + comm.size() - 1) % comm.size(); }

template <class F> void require_rejected(F f, int rank) {
  try {
    f();
  } catch (Error const& e) {
    require(e.code() == ErrorCode::invalid_argument && e.rank() == rank, std::string("rejected: ") + e.what());
    return;
  }
  require(false, "a wrong argument is rejected");
}

// ---------------------------------------------------------------- the cases

template <class C> void starts_clean(C& comm) {
  require(comm.size() >= 1 && comm.rank() >= 0 && comm.rank() < comm.size(), "a rank of the ring");
  require(comm.deadline() > 0ns, "there is a deadline");
  require(!comm.aborted(), "not aborted");
  require(comm.messages() == 0 && comm.bytes() == 0 && comm.control_messages() == 0, "nothing counted");
  comm.progress();
}

template <class C> void rejects_bad_arguments(C& comm) {
  HostControl host;
  std::byte b{};
  for (int peer : {comm.rank(), -1, comm.size()}) {
    Send const s{peer, {&b, 1}};
    Recv const r{peer, {&b, 1}};
    require_rejected([&] { comm.exchange(host, {&s, 1}, {}); }, comm.rank());
    require_rejected([&] { comm.exchange(host, {}, {&r, 1}); }, comm.rank());
  }
  Bytes all(size_t(comm.size()) + 1);
  require_rejected([&] { comm.all_gather({&b, 1}, all); }, comm.rank());
  require(comm.messages() == 0 && comm.control_messages() == 0 && !comm.aborted(), "nothing happened");
}

template <class C> void transfers_move(C& comm) {
  using Transfer = decltype(std::declval<C&>().all_gather({}, {}));
  HostControl host;
  Transfer none;
  require(none.wait_for(host, 0ns), "a default transfer is complete");
  if (comm.size() == 1) return;
  Mail a, b;
  a.send(comm.rank(), next(comm), 1000, 1), a.receive(previous(comm), comm.rank(), 1000, 1);
  b.send(comm.rank(), next(comm), 10, 2), b.receive(previous(comm), comm.rank(), 10, 2);
  Transfer first = post(comm, a), second = std::move(first);
  require(first.wait_for(host, 0ns), "a moved-from transfer is complete");
  wait_all(comm, second);
  require(second.wait_for(host, 0ns), "and stays complete");
  second = post(comm, b);
  none = std::move(second);
  wait_all(comm, none);
  a.check(), b.check();
}

template <class C> void keeps_order_within_a_pair(C& comm) {
  Mail mail[3];
  for (int k = 0; k < 3; ++k)
    for (int peer = 0; peer < comm.size(); ++peer)
      for (int i = 0; peer != comm.rank() && i < 5; ++i) {
        mail[k].send(comm.rank(), peer, 64, 10 * k + i);
        mail[k].receive(peer, comm.rank(), 64, 10 * k + i);
      }
  auto a = post(comm, mail[0]), b = post(comm, mail[1]), c = post(comm, mail[2]);
  wait_all(comm, c), wait_all(comm, a), wait_all(comm, b);  // not the order in which they were posted
  for (Mail& m : mail) m.check();
}

template <class C> void moves_all_sizes(C& comm) {
  for (size_t size :
       {size_t(0), size_t(1), size_t(4095), size_t(4096), size_t(8192), size_t(100003), (size_t(3) << 20) + 17}) {
    Mail mail;
    if (comm.size() > 1) {
      mail.receive(previous(comm), comm.rank(), size);
      mail.send(comm.rank(), next(comm), size);
    }
    auto t = post(comm, mail);
    wait_all(comm, t);
    mail.check();
  }
}

template <class C> void exchanges_several_at_once(C& comm) {
  Mail mail;
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (peer == comm.rank()) continue;
    for (size_t size : {size_t(7), size_t(0), size_t(2) << 20}) {
      mail.send(comm.rank(), peer, size + size_t(peer), int(size));
      mail.receive(peer, comm.rank(), size + size_t(comm.rank()), int(size));
    }
  }
  auto t = post(comm, mail);
  wait_all(comm, t);
  mail.check();
}

template <class C> void completes_though_one_side_waits(C& comm) {
  if (comm.size() == 1) return;
  Mail mail;
  mail.send(comm.rank(), next(comm), size_t(1) << 20);
  mail.receive(previous(comm), comm.rank(), size_t(1) << 20);
  auto t = post(comm, mail);
  if (comm.rank() % 2 == 1) wait_all(comm, t);
  gather(comm, 0);  // the others have not waited before all that did are here
  wait_all(comm, t);
  mail.check();
}

template <class C> void gathers(C& comm) {
  for (int round = 0; round < 20; ++round) {
    auto const all = gather(comm, 100 * round + comm.rank());
    for (int r = 0; r < comm.size(); ++r) require(all[size_t(r)] == 100 * round + r, "in rank order");
  }
  Bytes const a = message(33, comm.rank(), 0, 1), b = message(5, comm.rank(), 0, 2);  // two under way
  Bytes all_a(33 * size_t(comm.size())), all_b(5 * size_t(comm.size()));
  auto ta = comm.all_gather(a, all_a), tb = comm.all_gather(b, all_b), empty = comm.all_gather({}, {});
  wait_all(comm, empty), wait_all(comm, tb), wait_all(comm, ta);
  for (int r = 0; r < comm.size(); ++r) {
    require(std::memcmp(all_a.data() + 33 * r, message(33, r, 0, 1).data(), 33) == 0, "first");
    require(std::memcmp(all_b.data() + 5 * r, message(5, r, 0, 2).data(), 5) == 0, "second");
  }
}

template <class C> void keeps_control_and_data_apart(C& comm) {
  if (comm.size() == 1) return;
  Mail in, out;
  in.receive(previous(comm), comm.rank(), sizeof(int));
  out.send(comm.rank(), next(comm), sizeof(int));
  auto arriving = post(comm, in);  // a data message as long as the control messages, under way all the time
  auto const all = gather(comm, comm.rank() + 7);
  for (int r = 0; r < comm.size(); ++r) require(all[size_t(r)] == r + 7, "control is not data");
  HostControl host;
  require(!arriving.wait_for(host, 1ms), "nothing has been sent");
  gather(comm, 0);
  auto leaving = post(comm, out);
  wait_all(comm, arriving), wait_all(comm, leaving);
  in.check();
  gather(comm, 0);
}

template <class C> void counts(C& comm) {
  int const peers = comm.size() - 1;
  Mail mail;
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (peer == comm.rank()) continue;
    mail.send(comm.rank(), peer, 100), mail.send(comm.rank(), peer, 0);
    mail.receive(peer, comm.rank(), 100), mail.receive(peer, comm.rank(), 0);
  }
  auto t = post(comm, mail);
  wait_all(comm, t);
  gather(comm, 0);
  gather(comm, 0);
  require(comm.messages() == 2 * peers && comm.bytes() == 100 * peers, "data counted");
  require(comm.control_messages() == 2 * peers, "control counted");
}

template <class C> void abort_reaches_all(C& comm) {
  HostControl host;
  int const culprit = comm.size() - 1;
  Mail mail, late;
  if (comm.rank() != culprit) mail.receive(culprit, comm.rank(), 1 << 20);
  auto t = post(comm, mail);
  if (comm.rank() == culprit) {
    std::this_thread::sleep_for(20ms);  // the others wait by now, most likely
    comm.abort("the reason");
    comm.abort("another");
  }
  auto const begin = std::chrono::steady_clock::now();
  while (!comm.aborted() && std::chrono::steady_clock::now() < begin + 30s)
    require(!t.wait_for(host, 1s), "nothing was sent");
  require(comm.aborted() == "the reason", "the first reason reaches everybody");
  comm.abort("a third");
  require(comm.aborted() == "the reason", "and stays");
  if (comm.size() > 1) {
    late.send(comm.rank(), next(comm), 8);
    auto after = post(comm, late);
    require(!after.wait_for(host, 1ms), "nothing moves after an abort");
  }
}  // destroys a transfer that is under way

template <class C> void abort_ends_large_sends(C& comm) {
  if (comm.size() == 1) return;
  HostControl host;
  for (int i = 0; i < 3; ++i) {
    Mail mail;  // whose memory is given back while the peer, which expects another's message, has not taken it
    mail.send(comm.rank(), next(comm), 4 << 20);
    if (comm.size() > 2) mail.receive(next(comm), comm.rank(), 4 << 20);
    auto t = post(comm, mail);
    require(!t.wait_for(host, 5ms), "nobody takes it");
    if (comm.rank() == 0) comm.abort("enough");
  }
}

template <class C> void size_mismatch_aborts(C& comm, size_t sent, size_t room) {
  if (comm.size() == 1) return;
  HostControl host;
  Mail mail;
  if (comm.rank() == 0) mail.send(0, 1, sent);
  if (comm.rank() == 1) mail.receive(0, 1, room);
  auto t = post(comm, mail);
  auto const begin = std::chrono::steady_clock::now();
  while (!comm.aborted() && std::chrono::steady_clock::now() < begin + 30s) {
    (void)t.wait_for(host, 1ms);
    comm.progress();
    std::this_thread::yield();
  }
  std::string const reason = comm.aborted().value_or("none");
  require(reason.find("rank 0 sent ") != reason.npos && reason.find("to rank 1") != reason.npos &&
              reason.find("expected " + std::to_string(room)) != reason.npos,
          "the reason names ranks and sizes: " + reason);
}
template <class C> void too_long_aborts(C& comm) { size_mismatch_aborts(comm, 24, 16); }
template <class C> void too_short_aborts(C& comm) { size_mismatch_aborts(comm, 8, 16); }
template <class C> void much_too_long_aborts(C& comm) { size_mismatch_aborts(comm, (1 << 20) + 8, 1 << 20); }
template <class C> void much_too_short_aborts(C& comm) { size_mismatch_aborts(comm, 0, 1 << 20); }

/// Blocks go round as in the pipeline: sizes, order of waits and pauses at random, every content checked.
template <class C> void rotates(C& comm, unsigned seed, int steps) {
  int const n = comm.size(), rank = comm.rank();
  std::mt19937 common(seed), own(seed + 1 + unsigned(rank));
  Bytes block[2];
  auto const draw = [&] {
    return common() % 4 == 0 ? size_t(0) : size_t(common() % (common() % 8 == 0 ? 600000 : 3000));
  };
  std::vector<size_t> size(static_cast<size_t>(n));
  for (auto& s : size) s = draw();
  block[0] = message(size[size_t(rank)], rank, 0, 0);
  for (int step = 0; n > 1 && step < steps; ++step) {
    // After s hops rank r holds the block of rank r - s.
    int const mine = ((rank - step) % n + n) % n, coming = ((rank - step - 1) % n + n) % n;
    Bytes& here = block[step % 2];
    Bytes& there = block[1 - step % 2];
    require(here == message(size[size_t(mine)], mine, 0, step / n), "the block of this step");
    there.assign(size[size_t(coming)], std::byte{0x11});
    Send const s{next(comm), here};
    Recv const r{previous(comm), there};
    HostControl host;
    auto t = comm.exchange(host, {&s, 1}, {&r, 1});
    if (own() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 300));
    if (own() % 16 == 0) {
      for (int i = 0; i < 3; ++i) comm.progress();
    }
    wait_all(comm, t);
    require(here == message(size[size_t(mine)], mine, 0, step / n), "a sent block is unchanged");
    if ((step + 1) % n == 0) {  // once round: new blocks of new sizes
      for (auto& x : size) x = draw();
      there = message(size[size_t(rank)], rank, 0, (step + 1) / n);
    }
  }
}

/// What every transport must pass. Each runs on a fresh ring, since some end it.
template <class C> struct Case {
  char const* name;
  void (*run)(C&);
};
template <class C>
inline constexpr Case<C> conformance[] = {
    {"starts clean", starts_clean<C>},
    {"rejects bad arguments", rejects_bad_arguments<C>},
    {"transfers move", transfers_move<C>},
    {"keeps order within a pair", keeps_order_within_a_pair<C>},
    {"moves all sizes", moves_all_sizes<C>},
    {"exchanges several at once", exchanges_several_at_once<C>},
    {"completes though one side waits", completes_though_one_side_waits<C>},
    {"gathers", gathers<C>},
    {"keeps control and data apart", keeps_control_and_data_apart<C>},
    {"counts", counts<C>},
    {"abort reaches all", abort_reaches_all<C>},
    {"abort ends large sends", abort_ends_large_sends<C>},
    {"too long aborts", too_long_aborts<C>},
    {"too short aborts", too_short_aborts<C>},
    {"much too long aborts", much_too_long_aborts<C>},
    {"much too short aborts", much_too_short_aborts<C>},
};

}  // namespace ringattn::test
