// SPDX-License-Identifier: Apache-2.0
// Which block sizes are best on this machine, and how far from them are the defaults? Writes a TilePolicy.
//
//   meson configure build -Dtune_head_dims=64,128 -Dtune_precisions=Fp32 && ninja -C build bench/tune
//   build/bench/tune --seq 4096,8192 --mask causal --out tuned_tiles.hpp
//
//   #include "tuned_tiles.hpp"
//   struct Mine : ringattn::Policy { using Tiles = TunedTiles; ... };
#include <cmath>
#include <sstream>

#include "tune_case.hpp"
#include "tuned_tiles.hpp"

namespace {

using namespace bench;

struct Column {
  std::string name;
  std::vector<Sample> percent;  ///< of the peak, by candidate
};

struct Winner {
  TuneEntry const* entry;
  Tile tile;
  double gain;  ///< over DefaultTiles
};

/// All candidates in turn, again and again, so that a slow moment meets all of them.
void time_all(Column& column, std::vector<Candidate> const& candidates, TuneEntry const& entry, Problem problem,
              bool causal, bool backward, int threads, int repetitions) {
  double const flops = attention_flops(problem, entry.head_dim, entry.head_dim, causal, backward) * 1e-9;
  column.percent.resize(candidates.size());
  for (int i = 0; i < repetitions; ++i)
    for (size_t c = 0; c < candidates.size(); ++c) {
      double const peak = peak_gflops(entry.unit, threads), start = now(), cpu = cpu_time();
      candidates[c].call(backward);
      // With one thread its CPU time, which other programs do not lengthen; pools spin, so theirs says nothing.
      double const seconds = threads == 1 ? cpu_time() - cpu : now() - start;
      column.percent[c].add(100 * flops / seconds / peak);
    }
}

Winner report(TuneEntry const& entry, std::vector<Candidate> const& candidates, std::vector<Column> const& columns) {
  std::printf("\n%s, head_dim %d: median %% of peak\n%6s %5s", entry.precision.c_str(), entry.head_dim, "q", "kv");
  for (Column const& column : columns) std::printf(" %24s", column.name.c_str());
  std::printf("  over default\n");
  Winner best{&entry, candidates[0].tile, 1};
  for (size_t c = 0; c < candidates.size(); ++c) {
    double logs = 0;
    std::printf("%6d %5d", candidates[c].tile.q, candidates[c].tile.kv);
    for (Column const& column : columns) {
      std::printf(" %24.1f", column.percent[c].median());
      logs += std::log(column.percent[c].median() / column.percent[0].median());
    }
    double const gain = std::exp(logs / double(columns.size()));
    std::printf("  %.3f%s\n", gain, c == 0 ? "  (DefaultTiles)" : "");
    if (gain > best.gain) best = {&entry, candidates[c].tile, gain};
  }
  std::printf("best: {.q = %d, .kv = %d}; the default reaches %.1f %% of it\n", best.tile.q, best.tile.kv,
              100 / best.gain);
  return best;
}

void write_header(std::string const& path, std::vector<Winner> const& winners) {
  std::ostringstream lines;
  for (Winner const& w : winners)
    lines << "    if (arch == " << Cpu::arch << " && head_dim == " << w.entry->head_dim
          << " && value_dim == " << w.entry->head_dim << " && element_bytes == " << w.entry->element_bytes
          << ") return {.q = " << w.tile.q << ", .kv = " << w.tile.kv << "};  // " << w.entry->precision << ": "
          << w.gain << " x the default\n";
  write_tuned_tiles(path, "bench/tune on " + machine().dump(), lines.str());
}

}  // namespace

int main(int argc, char** argv) {
  Options const options(argc, argv,
                        {{"--head-dim LIST", "of those compiled in (default: all)"},
                         {"--precision LIST", "of those compiled in (default: all)"},
                         {"--seq LIST", "sequence lengths (default 4096)"},
                         {"--mask LIST", "full, causal (default both)"},
                         {"--pass LIST", "forward, backward (default both)"},
                         {"--heads N", "heads (default 2)"},
                         {"--threads N", "threads (default 1)"},
                         {"--repetitions N", "default 5"},
                         {"--out FILE", "write a header with a TilePolicy"},
                         {"--json FILE", "append JSON lines"}});
  try {
    JsonLines json(options.text("--json", ""));
    auto const chosen = [&](char const* option, std::string const& value) {
      if (!options.has(option)) return true;
      auto const list = options.list(option, "");
      return std::find(list.begin(), list.end(), value) != list.end();
    };
    int const threads = int(options.number("--threads", 1)), repetitions = int(options.number("--repetitions", 5));
    std::vector<Winner> winners;
    for (TuneEntry const& entry : tune_entries()) {
      if (!chosen("--head-dim", std::to_string(entry.head_dim)) || !chosen("--precision", entry.precision)) continue;
      std::vector<Column> columns;
      std::vector<Candidate> candidates;
      for (auto const& mask : options.list("--mask", "full,causal"))
        for (int64_t seq : options.numbers("--seq", "4096")) {
          Problem const problem{.seq = seq, .heads = int64_t(options.number("--heads", 2))};
          bool const causal = mask == "causal";
          candidates = entry.candidates(causal, problem, threads);
          candidates[0].call(false);  // out and lse for the backward passes of all
          for (auto const& pass : options.list("--pass", "forward,backward")) {
            std::fprintf(stderr, "%s head_dim %d: %s %s n = %lld, %zu candidates\n", entry.precision.c_str(),
                         entry.head_dim, mask.c_str(), pass.c_str(), static_cast<long long>(seq), candidates.size());
            Column column{pass + "-" + mask + "-n" + std::to_string(seq), {}};
            time_all(column, candidates, entry, problem, causal, pass == "backward", threads, repetitions);
            for (size_t c = 0; c < candidates.size(); ++c)
              json.write({{"bench", "tune"},
                          {"name", entry.precision + "-d" + std::to_string(entry.head_dim) + "-" + column.name},
                          {"q", candidates[c].tile.q},
                          {"kv", candidates[c].tile.kv},
                          {"is_default", c == 0},
                          {"threads", threads},
                          {"percent", column.percent[c].json()},
                          {"machine", machine()}});
            columns.push_back(std::move(column));
          }
        }
      winners.push_back(report(entry, candidates, columns));
    }
    if (winners.empty())
      throw std::runtime_error("nothing to do: see the meson options tune_head_dims, tune_precisions");
    if (options.has("--out")) write_header(options.text("--out", ""), winners);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
