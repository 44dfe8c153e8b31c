// SPDX-License-Identifier: Apache-2.0
// Mpi passes the conformance suite on as many ranks as mpirun started.
#include <doctest/doctest.h>
#include <ringattn/comm/mpi.hpp>

#include <cstdio>
#include <exception>

#include "conformance.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

/// An exception on one rank reaches the others as an abort, so that they do not wait for it.
template <class F> void on_ring(MpiOptions options, std::string const& name, F f) {
  Mpi comm(MPI_COMM_WORLD, options);
  std::string problem;
  try {
    f(comm);
  } catch (std::exception const& e) {
    problem = e.what();
    comm.abort(problem);
  }
  CAPTURE(comm.rank());
  CAPTURE(name);
  CHECK(problem == "");
}

/// Before main, where MPI is not initialised.
std::string const before_init = [] {
  try {
    Mpi comm(MPI_COMM_WORLD);
  } catch (Error const& e) {
    return std::string(e.what());
  }
  return std::string("accepted");
}();

}  // namespace

TEST_CASE("mpi: before MPI_Init the constructor says what to call") {
  CHECK(before_init.find("MPI is not initialized") != std::string::npos);
  CHECK(before_init.find("MPI_THREAD_FUNNELED") != std::string::npos);
}

TEST_CASE("mpi: conformance") {
  for (auto const& c : conformance<Mpi>) on_ring({}, c.name, c.run);
}

TEST_CASE("mpi: conformance with messages cut into chunks") {
  for (auto const& c : conformance<Mpi>) on_ring({.chunk = 4096}, c.name, c.run);
}

TEST_CASE("mpi: blocks rotate") {
  unsigned const seed = 20240;
  for (size_t chunk : {size_t(1000), size_t(1) << 30})
    on_ring({.chunk = chunk}, "rotates", [&](Mpi& comm) { rotates(comm, seed, 200); });
}

TEST_CASE("mpi: two rings at once do not mix") {
  Mpi a(MPI_COMM_WORLD), b(MPI_COMM_WORLD);
  if (a.size() == 1) return;
  Mail ma, mb;
  ma.receive(previous(a), a.rank(), 50, 1), ma.send(a.rank(), next(a), 50, 1);
  mb.receive(previous(b), b.rank(), 50, 2), mb.send(b.rank(), next(b), 50, 2);
  auto ta = post(a, ma);
  auto tb = post(b, mb);
  wait_all(b, tb), wait_all(a, ta);
  CHECK(ma.in == ma.expected);
  CHECK(mb.in == mb.expected);
}

TEST_CASE("mpi: the user's communicator stays as it is") {
  MPI_Errhandler before, after;
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &before);
  {
    Mpi comm(MPI_COMM_WORLD);
    gather(comm, 0);
  }
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &after);
  CHECK(before == after);
  MPI_Errhandler_free(&before);
  MPI_Errhandler_free(&after);
  CHECK_THROWS_AS(Mpi(MPI_COMM_NULL), Error);
  CHECK_THROWS_AS(Mpi(MPI_COMM_WORLD, {.chunk = 0}), Error);
}

TEST_CASE("mpi: progress alone brings a message") {
  Mpi comm(MPI_COMM_WORLD);
  if (comm.size() == 1) return;
  Mail mail;
  mail.receive(previous(comm), comm.rank(), 1 << 20), mail.send(comm.rank(), next(comm), 1 << 20);
  auto t = post(comm, mail);
  auto const end = std::chrono::steady_clock::now() + 20s;
  while (mail.in != mail.expected && std::chrono::steady_clock::now() < end) {
    comm.progress();
    std::this_thread::yield();
  }
  CHECK(mail.in == mail.expected);
  wait_all(comm, t);
}

TEST_CASE("mpi: progress alone brings an abort, long reasons are cut") {
  Mpi comm(MPI_COMM_WORLD);
  if (comm.rank() == 0) comm.abort(std::string(2000, 'x'));
  auto const end = std::chrono::steady_clock::now() + 20s;
  while (!comm.aborted() && std::chrono::steady_clock::now() < end) {
    comm.progress();
    std::this_thread::yield();
  }
  REQUIRE(comm.aborted());
  CHECK(comm.aborted()->size() >= 500);
}
