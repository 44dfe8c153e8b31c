// SPDX-License-Identifier: Apache-2.0
// The handshake: which field differs, on which ranks, in words; local errors first; the ring stays usable.
#include <ringattn/comm/in_process.hpp>
#include <ringattn/comm/solo.hpp>
#include <ringattn/ring/contract.hpp>

#include <doctest/doctest.h>

#include <mutex>
#include <string>
#include <vector>

using namespace ringattn;

namespace {

/// What every rank of a ring throws when each brings its own contract and error.
template <class F> std::vector<Error> outcome(int size, F contract_and_error) {
  std::mutex mutex;
  std::vector<Error> errors;
  run_ranks(size,
            [&](InProcess& comm) {
              auto const [contract, error] = contract_and_error(comm.rank());
              try {
                agree(comm, contract, error, "test");
              } catch (Error const& e) {
                std::lock_guard lock(mutex);
                errors.push_back(e);
              }
              CHECK_FALSE(comm.aborted());
              agree(comm, Contract{}, std::nullopt, "again");
            },
            {.deadline = std::chrono::seconds(10)});
  return errors;
}

using Pair = std::pair<Contract, std::optional<Error>>;

}  // namespace

TEST_CASE("contract: every field has a name, and they all differ") {
  for (int i = 0; i < Contract::fields; ++i) {
    REQUIRE(Contract::name[i] != nullptr);
    for (int j = 0; j < i; ++j) CHECK(std::string(Contract::name[i]) != Contract::name[j]);
  }
}

TEST_CASE("contract: each field that differs is named on every rank") {
  for (int field = 0; field < Contract::fields; ++field)
    for (int size : {2, 3, 4}) {
      auto const errors = outcome(size, [&](int rank) {
        Contract c;
        if (rank == size - 1) c.value[size_t(field)] = 7;
        return Pair{c, std::nullopt};
      });
      REQUIRE(int(errors.size()) == size);
      for (Error const& e : errors) {
        CHECK(e.code() == ErrorCode::contract_mismatch);
        CHECK(e.argument() == Contract::name[field]);
        CHECK(e.rank() == size - 1);
        CHECK(e.expected().find("rank") != std::string::npos);
        CHECK(e.actual().find("on rank " + std::to_string(size - 1)) != std::string::npos);
      }
    }
}

TEST_CASE("contract: a local error of one rank is everybody's, with its rank") {
  auto const errors = outcome(3, [&](int rank) {
    std::optional<Error> error;
    if (rank == 1) error.emplace(ErrorCode::out_of_memory, 1, "workspace", "64 bytes", std::string(2000, 'x'));
    Contract c;
    c.value[Contract::seq] = std::uint64_t(rank);  // differs, too: what is wrong locally counts first
    return Pair{c, error};
  });
  REQUIRE(errors.size() == 3);
  for (Error const& e : errors) {
    CHECK(e.code() == ErrorCode::out_of_memory);
    CHECK(e.rank() == 1);
    CHECK(e.argument() == "workspace");
    CHECK(e.expected() == "64 bytes");
    CHECK(e.actual().size() > 100);
  }
}

TEST_CASE("contract: equal ones agree, alone and together") {
  CHECK(outcome(4, [](int) { return Pair{Contract{}, std::nullopt}; }).empty());
  Solo solo;
  agree(solo, Contract{}, std::nullopt, "alone");
  CHECK_THROWS_AS(agree(solo, Contract{}, Error(ErrorCode::invalid_argument, 0, "x", "", ""), "alone"), Error);
}

TEST_CASE("contract: the longest deadline there is") {
  run_ranks(2, [](InProcess& comm) { agree(comm, Contract{}, std::nullopt, "patient"); },
            {.deadline = std::chrono::nanoseconds::max()});
}

TEST_CASE("contract: fields as a reader wants them") {
  CHECK(Contract::text(Contract::seq, 65536) == "65536");
  CHECK(Contract::text(Contract::kv_seq, std::uint64_t(-1)) == "-1");
  CHECK(Contract::text(Contract::scale, std::bit_cast<std::uint64_t>(0.125)).substr(0, 5) == "0.125");
  CHECK(Contract::text(Contract::scale, std::bit_cast<std::uint64_t>(0.125)) !=
        Contract::text(Contract::scale, std::bit_cast<std::uint64_t>(0.125 + 1e-9)));
  CHECK(Contract::text(Contract::mask, 0xabc) == "#0000000000000abc");
}
