// SPDX-License-Identifier: Apache-2.0
// The smallest backend and communicator the contracts accept, and a policy made of them: each source here breaks one
// thing of it. Nothing is defined, nothing runs.
#pragma once

#include <memory>
#include <ringattn/ring_attention.hpp>

namespace fake {

struct Bytes {
  std::byte* data();
};

struct Device {
  using Space = ringattn::HostSpace;
  static constexpr int arch = 0;

  Bytes allocate(size_t);
  template <class From, class To> void copy(From, To);
  void synchronize();
  template <class K> size_t attend_bytes(ringattn::AttendShape const&);
  template <class K> void begin(ringattn::AttendStep<K, Space> const&);
  template <class K> void step(ringattn::AttendStep<K, Space> const&);
  template <class K> void finish(ringattn::AttendStep<K, Space> const&, ringattn::AttendResult<K, Space> const&);
};

struct Transfer {
  template <class B> bool wait_for(B&, std::chrono::nanoseconds);
};

struct Line {
  template <class Space> static constexpr bool moves = std::is_same_v<Space, ringattn::HostSpace>;

  int rank() const;
  int size() const;
  template <class B> Transfer exchange(B&, std::span<ringattn::Send const>, std::span<ringattn::Recv const>);
  void progress();
  void abort(std::string);
  std::optional<std::string> aborted() const;
  std::chrono::nanoseconds deadline() const;
  Transfer all_gather(std::span<std::byte const>, std::span<std::byte>);
};

struct Policy : ringattn::Policy {
  using Mask = ringattn::Causal;
  using Backend = Device;
  using Communicator = Line;
  static constexpr int head_dim = 64;
};

}  // namespace fake

/// Instantiates the pipeline of a policy.
template <class P> inline constexpr size_t pipeline = sizeof(ringattn::RingAttention<P>);
