// SPDX-License-Identifier: Apache-2.0
// A genome as numbers 0..3, k-mers as integers, and exact repeats found by hashing.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace example {

using Genome = std::vector<std::uint8_t>;  ///< A C G T as 0 1 2 3

/// The first sequence of a FASTA file, gzipped or not. Other letters than ACGT are skipped.
inline Genome read_fasta(std::string const& path) {
  if (path.find('\'') != std::string::npos) throw std::runtime_error("no quotes in a file name, please: " + path);
  if (!std::ifstream(path)) throw std::runtime_error("cannot read " + path);
  bool const zipped = path.ends_with(".gz");
  std::FILE* const in = zipped ? popen(("gzip -dc -- '" + path + "'").c_str(), "r") : std::fopen(path.c_str(), "r");
  if (in == nullptr) throw std::runtime_error("cannot read " + path);
  Genome g;
  bool header = false, seen = false;
  for (int c; (c = std::fgetc(in)) != EOF;) {
    if (c == '>') {
      if (std::exchange(seen, true)) break;
      header = true;
    } else if (c == '\n') {
      header = false;
    } else if (!header) {
      std::size_t const base = std::string_view("ACGT").find(char(c & ~0x20));
      if (base < 4) g.push_back(std::uint8_t(base));
    }
  }
  zipped ? pclose(in) : std::fclose(in);
  if (g.empty()) throw std::runtime_error("no sequence in " + path);
  return g;
}

/// Random bases, the last quarter of which is full of 300-base copies from the first.
inline Genome synthetic_genome(std::int64_t bases) {
  std::mt19937_64 random(1);
  Genome g(static_cast<std::size_t>(bases));
  for (auto& b : g) b = std::uint8_t(random() & 3);
  for (std::int64_t to = bases * 3 / 4; to + 300 <= bases; to += 600)
    std::copy_n(g.begin() + std::int64_t(random() % std::uint64_t(bases / 4 - 300)), 300, g.begin() + to);
  return g;
}

/// Positions i, in order, where the 64 bases that end with base i have been there before, but not within the last
/// `window` bases: what follows the first 63 can be known only from far away.
inline std::vector<std::int64_t> far_repeats(Genome const& g, std::int64_t window) {
  constexpr std::int64_t length = 64;
  std::unordered_map<std::uint64_t, std::int64_t> last;  // hash of 64 bases -> where they ended
  last.reserve(g.size());
  std::vector<std::int64_t> out;
  std::uint64_t constexpr factor = 0x9e3779b97f4a7c15u;
  std::uint64_t leaving = 1, hash = 0;
  for (int i = 0; i < length; ++i) leaving *= factor;
  for (std::int64_t i = 0; i < std::int64_t(g.size()); ++i) {
    hash = hash * factor + g[std::size_t(i)] + 1;
    if (i >= length) hash -= leaving * (g[std::size_t(i - length)] + 1u);
    if (i < length - 1) continue;
    auto const [it, first] = last.try_emplace(hash, i);
    if (first) continue;
    std::int64_t const before = std::exchange(it->second, i);
    bool const same =
        std::equal(g.begin() + before - (length - 1), g.begin() + before + 1, g.begin() + i - (length - 1));
    if (same && i - before > window) out.push_back(i);
  }
  return out;
}

/// The k bases before every position as an integer; ~0 where there are fewer. k <= 31.
inline std::vector<std::uint64_t> contexts(Genome const& g, int k) {
  std::vector<std::uint64_t> out(g.size());
  std::uint64_t const keep = (std::uint64_t(1) << (2 * k)) - 1;
  std::uint64_t code = 0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    out[i] = i < std::size_t(k) ? ~std::uint64_t(0) : code;
    code = ((code << 2) | g[i]) & keep;
  }
  return out;
}

/// What counting says: of the earlier places with the same context, how many are followed by each base.
class Counts {
 public:
  explicit Counts(Genome const& g, std::vector<std::uint64_t> const& context) : genome_(g), context_(context) {
    for (std::size_t i = 0; i < g.size(); ++i)
      if (context[i] != ~std::uint64_t(0)) order_.push_back(std::int64_t(i));
    std::sort(order_.begin(), order_.end(), [&](std::int64_t a, std::int64_t b) {
      return std::pair(context_[std::size_t(a)], a) < std::pair(context_[std::size_t(b)], b);
    });
  }
  /// Among positions in [from, position).
  std::array<double, 4> of(std::int64_t position, std::int64_t from) const {
    std::uint64_t const wanted = context_[std::size_t(position)];
    auto it =
        std::lower_bound(order_.begin(), order_.end(), std::pair(wanted, from),
                         [&](std::int64_t a, auto const& b) { return std::pair(context_[std::size_t(a)], a) < b; });
    std::array<double, 4> count{};
    for (; it != order_.end() && *it < position && context_[std::size_t(*it)] == wanted; ++it)
      ++count[genome_[std::size_t(*it)]];
    return count;
  }

 private:
  Genome const& genome_;
  std::vector<std::uint64_t> const& context_;
  std::vector<std::int64_t> order_;
};

}  // namespace example
