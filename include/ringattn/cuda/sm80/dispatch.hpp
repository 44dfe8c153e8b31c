// SPDX-License-Identifier: Apache-2.0
// From a device to the kernels that suit it, and from an amount of work to a grid.
#pragma once

#include <climits>
#include <cstdint>
#include <string>
#include <type_traits>

#include "../launch.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS::sm80 {

/// f(arch) for the tiles that the card has the shared memory for: those of 80, or of 86, which are small. `Sizes`: of a
/// kernel, with `tile` and `shared`. Throws Error{invalid_argument} if the card has it for neither.
template <template <class, int> class Sizes, class K, class F>
auto with_arch(char const* what, Launch const& where, F f) {
  using Large = Sizes<K, 80>;
  using Small = Sizes<K, 86>;
  if constexpr (Large::tile != Small::tile)
    if (std::size_t(Large::shared) > where.shared_limit) {
      check_shared(Small::shared, what, where);
      return f(std::integral_constant<int, 86>{});
    }
  check_shared(Large::shared, what, where);
  return f(std::integral_constant<int, 80>{});
}

/// A grid of so many blocks. Throws Error{invalid_argument} if no grid has them.
inline dim3 blocks(std::int64_t count) {
  if (count > INT_MAX)
    throw Error(ErrorCode::invalid_argument, -1, "batch * heads * tiles of rows", "at most 2^31 - 1",
                std::to_string(count));
  return dim3(unsigned(count));
}

}  // namespace ringattn::cuda::sm80
