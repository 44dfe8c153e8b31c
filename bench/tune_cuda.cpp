// SPDX-License-Identifier: Apache-2.0
// Which tiles are best on this GPU, and how far from them are the defaults? Writes a TilePolicy.
//
//   meson configure build -Dtune_head_dims=64,128 -Dtune_precisions=Bf16 && ninja -C build bench/tune_cuda
//   build/bench/tune_cuda --seq 8192,16384 --mask causal --out tuned_tiles.hpp
//
//   #include "tuned_tiles.hpp"
//   struct Mine : ringattn::Policy { using Tiles = TunedTiles; ... };
#include <cuda_runtime_api.h>

#include <sstream>
#include <stdexcept>

#include "options.hpp"
#include "tune_cuda_case.hpp"
#include "tuned_tiles.hpp"

namespace {

using namespace bench;

struct Column {
  std::string name;
  double flop;
  std::vector<Sample> ms;  ///< by candidate
};

struct Winner {
  CudaTuneEntry const* entry;
  bool backward;
  Tile tile;
  int shared_bytes;
  double gain;  ///< over DefaultTiles
};

/// 4 N^2 D H forward, 10 N^2 D H backward, half of it when causal.
double flop_of(CudaShape const& s, int head_dim) {
  Problem const p = s.problem.resolved();
  double const pairs = double(p.batch) * double(p.heads) * double(p.seq) * double(p.kv_seq) * (s.causal ? 0.5 : 1);
  return pairs * head_dim * (s.backward ? 10 : 4);
}

std::string text_of(Tile const& t) {
  return "{.q = " + std::to_string(t.q) + ", .kv = " + std::to_string(t.kv) +
         ", .stages = " + std::to_string(t.stages) + ", .warps = " + std::to_string(t.warps) +
         (t.keys_per_warp > 0 ? ", .keys_per_warp = " + std::to_string(t.keys_per_warp) : "") + "}";
}

Winner report(CudaTuneEntry const& entry, bool backward, std::vector<CudaCandidate> const& candidates,
              std::vector<Column> const& columns) {
  std::printf("\n%s, head_dim %d, %s: TFLOP/s\n%5s %4s %7s %6s %9s %7s", entry.precision.c_str(), entry.head_dim,
              backward ? "backward" : "forward", "q", "kv", "stages", "warps", "keys/warp", "shared");
  for (Column const& column : columns) std::printf(" %18s", column.name.c_str());
  std::printf("  over default\n");
  Winner best{&entry, backward, candidates[0].tile, candidates[0].shared_bytes, 1};
  for (size_t c = 0; c < candidates.size(); ++c) {
    Tile const& t = candidates[c].tile;
    double logs = 0;
    std::printf("%5d %4d %7d %6d %9s %7d", t.q, t.kv, t.stages, t.warps,
                t.keys_per_warp > 0 ? std::to_string(t.keys_per_warp).c_str() : "", candidates[c].shared_bytes);
    for (Column const& column : columns) {
      std::printf(" %18.1f", column.flop / column.ms[c].median() * 1e-9);
      logs += std::log(column.ms[0].median() / column.ms[c].median());
    }
    double const gain = std::exp(logs / double(columns.size()));
    std::printf("  %.3f%s\n", gain, c == 0 ? "  (DefaultTiles)" : "");
    if (gain > best.gain) best = {&entry, backward, t, candidates[c].shared_bytes, gain};
  }
  std::printf("best: %s; the default reaches %.1f %% of it\n", text_of(best.tile).c_str(), 100 / best.gain);
  return best;
}

/// The lines of one pass. A tile that every card has the memory for stands for all of them: where two fit, kernels take
/// the one of the larger card.
std::string lines(std::vector<Winner> const& winners, bool backward) {
  std::ostringstream out;
  for (Winner const& w : winners)
    if (w.backward == backward)
      out << "    if (" << (w.shared_bytes <= budget::shared_bytes_of(86) ? "arch >= 80" : "arch == 80")
          << " && head_dim == " << w.entry->head_dim << " && value_dim == " << w.entry->head_dim
          << " && element_bytes == " << w.entry->element_bytes << ")\n      return " << text_of(w.tile) << ";  // "
          << w.entry->precision << ": " << w.gain << " x the default\n";
  return out.str();
}

void write_header(std::string const& path, std::string const& card, std::vector<Winner> const& winners) {
  write_tuned_tiles(
      path, "bench/tune_cuda on " + card, lines(winners, false), "#include <ringattn/cuda/backward_tiles.hpp>\n",
      "  constexpr ringattn::Tile backward(int arch, int head_dim, int value_dim, int element_bytes) const {\n" +
          lines(winners, true) +
          "    return ringattn::budget::backward_tile(ringattn::budget::shared_bytes_of(arch), head_dim, value_dim,\n"
          "                                           element_bytes);\n  }\n");
}

/// The card's name; throws where there is none.
std::string card_of(int device) {
  int count = 0;
  cudaError_t const state = cudaGetDeviceCount(&count);
  if (state != cudaSuccess || device < 0 || device >= count)
    throw std::runtime_error("no CUDA device " + std::to_string(device) + " here (" +
                             (state == cudaSuccess ? std::to_string(count) + " devices" : cudaGetErrorString(state)) +
                             "): bench/tune_cuda times kernels on a real card");
  cudaDeviceProp card;
  if (cudaGetDeviceProperties(&card, device) != cudaSuccess) throw std::runtime_error("the CUDA device has no name");
  return std::string(card.name) + ", compute capability " + std::to_string(card.major) + "." +
         std::to_string(card.minor) + ", " + std::to_string(card.sharedMemPerBlockOptin) + " bytes of shared memory";
}

}  // namespace

int main(int argc, char** argv) {
  Options const options(argc, argv,
                        {{"--head-dim LIST", "of those compiled in (default: all)"},
                         {"--precision LIST", "of those compiled in (default: all)"},
                         {"--batch N", "default 1"},
                         {"--seq LIST", "sequence lengths (default 8192)"},
                         {"--heads N", "query heads (default 16)"},
                         {"--kv-heads N", "key heads (default: as heads)"},
                         {"--mask LIST", "full, causal (default both)"},
                         {"--pass LIST", "forward, backward (default both)"},
                         {"--repetitions N", "default 5"},
                         {"--calls N", "timed together in a repetition (default 3)"},
                         {"--device N", "default 0"},
                         {"--out FILE", "write a header with a TilePolicy"},
                         {"--json FILE", "append JSON lines"}});
  try {
    int const device = int(options.number("--device", 0)), repetitions = int(options.number("--repetitions", 5)),
              calls = int(options.number("--calls", 3));
    std::string const card = card_of(device);
    std::printf("%s\n", card.c_str());
    JsonLines json(options.text("--json", ""));
    auto const chosen = [&](char const* option, std::string const& value) {
      if (!options.has(option)) return true;
      auto const list = options.list(option, "");
      return std::find(list.begin(), list.end(), value) != list.end();
    };
    int64_t const heads = int64_t(options.number("--heads", 16));
    std::vector<Winner> winners;
    for (CudaTuneEntry const& entry : cuda_tune_entries()) {
      if (!chosen("--head-dim", std::to_string(entry.head_dim)) || !chosen("--precision", entry.precision)) continue;
      for (auto const& pass : options.list("--pass", "forward,backward")) {
        std::vector<Column> columns;
        std::vector<CudaCandidate> candidates;
        for (auto const& mask : options.list("--mask", "full,causal"))
          for (int64_t seq : options.numbers("--seq", "8192")) {
            CudaShape const shape{{.batch = int64_t(options.number("--batch", 1)),
                                   .seq = seq,
                                   .heads = heads,
                                   .kv_heads = int64_t(options.number("--kv-heads", double(heads)))},
                                  mask == "causal",
                                  pass == "backward",
                                  device};
            candidates.clear();  // and the memory of the last shape
            candidates = entry.candidates(shape);
            if (candidates.empty()) throw std::runtime_error("no tile fits in this card's shared memory");
            std::fprintf(stderr, "%s head_dim %d: %s %s n = %lld, %zu candidates\n", entry.precision.c_str(),
                         entry.head_dim, mask.c_str(), pass.c_str(), static_cast<long long>(seq), candidates.size());
            Column column{mask + "-n" + std::to_string(seq), flop_of(shape, entry.head_dim), {}};
            column.ms.resize(candidates.size());
            // All candidates in turn, again and again, so that a slow moment meets all of them.
            for (int i = 0; i < repetitions; ++i)
              for (size_t c = 0; c < candidates.size(); ++c)
                column.ms[c].add(std::max(1e-6, candidates[c].milliseconds(calls)));
            for (size_t c = 0; c < candidates.size(); ++c)
              json.write({{"bench", "tune_cuda"},
                          {"card", card},
                          {"precision", entry.precision},
                          {"head_dim", entry.head_dim},
                          {"pass", pass},
                          {"mask", mask},
                          {"seq", long(seq)},
                          {"heads", long(heads)},
                          {"tile", text_of(candidates[c].tile)},
                          {"shared_bytes", candidates[c].shared_bytes},
                          {"is_default", c == 0},
                          {"tflops", column.flop / column.ms[c].median() * 1e-9},
                          {"ms", column.ms[c].json()}});
            columns.push_back(std::move(column));
          }
        winners.push_back(report(entry, pass == "backward", candidates, columns));
      }
    }
    if (winners.empty())
      throw std::runtime_error("nothing to do: see the meson options tune_head_dims, tune_precisions");
    if (options.has("--out")) write_header(options.text("--out", ""), card, winners);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
