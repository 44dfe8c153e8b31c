// SPDX-License-Identifier: Apache-2.0
// What the tuners write: a header with a TilePolicy.
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>

namespace bench {

/// `measured`: by whom and where. `forward`: lines of the policy's function for what was measured. `more`: further
/// members, which need `includes`.
inline void write_tuned_tiles(std::string const& path, std::string const& measured, std::string const& forward,
                              std::string const& includes = "", std::string const& more = "") {
  std::ofstream out(path);
  out << "// SPDX-License-Identifier: Apache-2.0\n// Tiles measured by " << measured << ".\n#pragma once\n\n"
      << includes << "#include <ringattn/policy/tile.hpp>\n\n"
      << "/// `using Tiles = TunedTiles;` in a policy. What was not measured is as DefaultTiles says.\n"
      << "struct TunedTiles {\n"
      << "  constexpr ringattn::Tile operator()(int arch, int head_dim, int value_dim, int element_bytes) const {\n"
      << forward << "    return ringattn::DefaultTiles{}(arch, head_dim, value_dim, element_bytes);\n  }\n"
      << more << "};\n\nstatic_assert(ringattn::TilePolicy<TunedTiles>);\n";
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace bench
