// SPDX-License-Identifier: Apache-2.0
// The one exception type: what was wrong, what was expected, what came, and on which rank.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "config.hpp"

namespace ringattn::inline RINGATTN_ABI {

enum class ErrorCode : int {
  invalid_argument = 1,   ///< an argument on this rank is wrong
  contract_mismatch = 2,  ///< ranks were planned with different contracts
  timeout = 3,            ///< a peer did not answer within the deadline
  aborted = 4,            ///< another rank failed and told us
  out_of_memory = 5,      ///< a workspace could not be had
  transport = 6,          ///< the transport reported an error
  device = 7,             ///< a device or its runtime reported an error
};

inline char const* to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid argument";
    case ErrorCode::contract_mismatch:
      return "contract mismatch";
    case ErrorCode::timeout:
      return "timeout";
    case ErrorCode::aborted:
      return "aborted";
    case ErrorCode::out_of_memory:
      return "out of memory";
    case ErrorCode::transport:
      return "transport error";
    case ErrorCode::device:
      return "device error";
  }
  return "error";
}

/// Everything ringattn throws. `what()` is one sentence made of the members.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, int rank, std::string argument, std::string expected, std::string actual)
      : std::runtime_error(sentence(code, rank, argument, expected, actual)),
        code_(code),
        rank_(rank),
        argument_(std::move(argument)),
        expected_(std::move(expected)),
        actual_(std::move(actual)) {}

  ErrorCode code() const { return code_; }
  /// The rank on which it happened (not necessarily the one that catches it); -1 if unknown.
  int rank() const { return rank_; }
  std::string const& argument() const { return argument_; }  ///< the argument, contract field or operation at fault
  std::string const& expected() const { return expected_; }
  std::string const& actual() const { return actual_; }

 private:
  static std::string sentence(ErrorCode code, int rank, std::string const& argument, std::string const& expected,
                              std::string const& actual) {
    std::string s = "ringattn: ";
    s += to_string(code);
    if (rank >= 0) s += " on rank " + std::to_string(rank);
    s += ": '" + argument + "'";
    if (!expected.empty()) s += ": expected " + expected;
    if (!actual.empty()) s += (expected.empty() ? ": " : ", got ") + actual;
    return s;
  }

  ErrorCode code_;
  int rank_;
  std::string argument_, expected_, actual_;
};

}  // namespace ringattn
