// SPDX-License-Identifier: Apache-2.0
// How long a sequence fits into so many bytes per rank? Measured: every rank allocates from a resource that refuses
// more, and the longest sequence found is run forward and backward.
//   max_context [--bytes-per-rank 64M] [--ranks 8] [--seconds 40] [--svg max_context.svg]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <ringattn/ringattn.hpp>
#include <ringattn/transformer/layer.hpp>
#include <string>
#include <vector>

#include "support/dense.hpp"
#include "support/dense_backend.hpp"
#include "support/progress.hpp"
#include "support/svg.hpp"

using namespace ringattn;
using example::DenseBackend;

namespace {

constexpr int64_t heads = 8, width = 512, hidden = 4 * width;

/// One decoder layer, on a backend.
template <class Backend_> struct Decoder : Policy {
  using Mask = Causal;
  using Shard = ZigZag;
  using Backend = Backend_;
  static constexpr int head_dim = int(width / heads);
};

template <class Backend> using DecoderLayer = Layer<Decoder<Backend>, Gelu>;

enum class Trial { plan, touch, run };

struct Outcome {
  bool fits = false;
  size_t bytes = 0;     ///< of the rank that has most
  double seconds = 0;   ///< forward and backward
  double checksum = 0;  ///< the squares of all outputs and input gradients
};

/// Weights lie outside the budget: with the paper's setting they are sharded, and they do not grow with the sequence.
std::vector<float> make_weights(int64_t count) {
  std::vector<float> w(static_cast<size_t>(count));
  for (size_t i = 0; i < w.size(); ++i) w[i] = 0.05f * example::noise(7, 0, int64_t(i), 0, 0);
  return w;
}

template <class Backend> std::unique_ptr<Backend> make_backend(std::pmr::memory_resource& memory) {
  if constexpr (std::is_same_v<Backend, Cpu>)
    return std::make_unique<Cpu>(Cpu::Options{.threads = 1, .memory = &memory});
  else
    return std::make_unique<Backend>(memory);
}

double squares(Matrix<float> m) {
  double sum = 0;
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.cols; ++j) sum += double(m(i, j)) * double(m(i, j));
  return sum;
}

/// One rank: allocates all it needs from `memory`, then runs.
template <class Backend> Outcome one_rank(InProcess& comm, int64_t seq, example::LimitedMemory& memory, Trial trial) {
  using L = DecoderLayer<Backend>;
  typename L::Options const options{
      .attention = {.ring = {.problem = {.seq = seq, .heads = heads}}, .width = width, .rope_base = 10000},
      .hidden = hidden};
  auto const backend = make_backend<Backend>(memory);
  size_t const before = memory.used();
  L layer(*backend, comm, options);
  size_t const in_vectors = layer.workspace_bytes() - std::min(layer.workspace_bytes(), memory.used() - before);
  memory.charge(in_vectors);

  Carver<float> count;
  auto const lay_out = [&](Carver<float>& c) { return std::pair(layer.checkpoint(c), c.take(layer.tokens(), width)); };
  lay_out(count);
  example::Bytes const bytes(memory, size_t(count.used()) * sizeof(float));
  Carver<float> carver(reinterpret_cast<float*>(bytes.data()));
  auto const [checkpoint, y] = lay_out(carver);
  Outcome outcome{true, memory.used(), 0, 0};
  if (trial != Trial::run) return outcome;

  Carver<float> size;
  L::weights(size, options);
  std::vector<float> flat = make_weights(size.used()), flat_gradient(flat.size());
  Carver<float> weights(flat.data()), gradients(flat_gradient.data());
  auto const w = L::weights(weights, options), g = L::weights(gradients, options);
  auto const rows = layer.ring().rows();
  example::fill(View<float>(checkpoint.x.data, {1, layer.tokens(), 1, width}), rows, 0);
  auto const start = std::chrono::steady_clock::now();
  layer.forward(w, checkpoint, y);
  outcome.checksum += squares(y);
  layer.backward(w, g, checkpoint, y);  // of half the sum of squares: its gradient is y
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.checksum += squares(y);
  return outcome;
}

template <class Backend> Outcome attempt(int ranks, int64_t seq, size_t limit, Trial trial) {
  std::vector<Outcome> each(static_cast<size_t>(ranks));
  auto const body = [&](InProcess& comm) {
    example::LimitedMemory memory(limit, trial == Trial::touch);
    each[size_t(comm.rank())] = one_rank<Backend>(comm, seq, memory, trial);
  };
  try {
    run_ranks(ranks, body, {.deadline = std::chrono::minutes(5)});
  } catch (std::bad_alloc const&) {
    return {};
  } catch (Error const& e) {
    if (e.code() != ErrorCode::out_of_memory) throw;
    return {};
  }
  Outcome all{true, 0, 0, 0};
  for (Outcome const& one : each) {
    all.bytes = std::max(all.bytes, one.bytes);
    all.seconds = std::max(all.seconds, one.seconds);
    all.checksum += one.checksum;
  }
  return all;
}

/// The longest sequence, a multiple of `grain`, that fits.
template <class Backend> int64_t longest(int ranks, size_t limit) {
  int64_t const grain = 4 * ranks;
  auto const fits = [&](int64_t n) { return attempt<Backend>(ranks, n * grain, limit, Trial::plan).fits; };
  if (!fits(1)) return 0;
  int64_t low = 1, high = 2;
  for (; fits(high); high *= 2) low = high;
  while (high - low > 1) (fits((low + high) / 2) ? low : high) = (low + high) / 2;
  return low * grain;
}

/// FLOPs of forward, recomputation and backward: projections and feed-forward, attention.
double work(double seq) { return 4 * 24. * width * width * seq + (4 + 4 + 10) * width * seq * seq / 2; }

size_t parse_bytes(char const* text) {
  char* end = nullptr;
  double const n = std::strtod(text, &end);
  return size_t(n * (*end == 'K' ? 1 << 10 : *end == 'M' ? 1 << 20 : *end == 'G' ? 1 << 30 : 1));
}

struct Line {
  std::string scheme;
  int ranks;
  bool dense;
  size_t limit;  ///< of one rank
  int64_t tokens = 0;
  Outcome outcome{};
  bool ran = false;
};

}  // namespace

int main(int argc, char** argv) {
  size_t budget = 64u << 20;
  int most_ranks = 8;
  double seconds = 40;
  std::string svg = "max_context.svg";
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string const name = argv[i];
    if (name == "--bytes-per-rank") budget = parse_bytes(argv[i + 1]);
    if (name == "--ranks") most_ranks = std::atoi(argv[i + 1]);
    if (name == "--seconds") seconds = std::atof(argv[i + 1]);
    if (name == "--svg") svg = argv[i + 1];
  }
#if defined(RINGATTN_WITH_BLAS) && defined(OPENBLAS_VERSION)
  openblas_set_num_threads(1);  // the ranks are the threads
#endif

  // Dense for P ranks: one device with the memory of all P. It gives the square root that the ring is compared with.
  std::vector<Line> lines;
  for (int p = 1; p <= most_ranks; ++p) lines.push_back({"dense", 1, true, size_t(p) * budget});
  for (int p = 1; p <= most_ranks; ++p) lines.push_back({p == 1 ? "blockwise" : "ring", p, false, budget});

  example::Progress progress("max_context", double(lines.size() * 2));
  double done = 0;
  bool right = true;
  double const expected = attempt<DenseBackend>(1, 96, size_t(1) << 30, Trial::run).checksum;
  for (int p : {1, 3}) {
    double const sum = attempt<Cpu>(p, 96, size_t(1) << 30, Trial::run).checksum;
    right = right && std::abs(sum / expected - 1) < 1e-5;
  }
  if (!right) std::printf("dense and blockwise do not give the same numbers\n");

  for (Line& line : lines) {
    progress.update(done++, line.scheme + ": how much fits on " + std::to_string(line.ranks));
    line.tokens = line.dense ? longest<DenseBackend>(line.ranks, line.limit) : longest<Cpu>(line.ranks, line.limit);
  }
  for (Line const& line : lines)
    if (line.tokens == 0) {
      std::printf("%zu bytes are too few for %s on %d\n", line.limit, line.scheme.c_str(), line.ranks);
      return 2;
    }
  // What the plot is about runs first, the rest if there is time.
  std::vector<Line*> order;
  for (Line& line : lines) order.push_back(&line);
  auto const turn = [&](Line const* l) {
    bool const power_of_two = (l->ranks & (l->ranks - 1)) == 0;
    return std::pair(l->limit > budget ? 2 : power_of_two ? 0 : 1, l->tokens);
  };
  std::stable_sort(order.begin(), order.end(), [&](Line const* l, Line const* r) { return turn(l) < turn(r); });
  double spent = 0, per_flop = 1 / 20e9;
  for (Line* line : order) {
    double const estimate = work(double(line->tokens)) * per_flop;
    line->ran = estimate < 10 && spent + estimate < seconds;
    progress.update(done++, line->scheme + ": " + std::to_string(line->tokens) + " tokens, forward and backward");
    Trial const trial = line->ran ? Trial::run : Trial::touch;
    line->outcome = line->dense ? attempt<DenseBackend>(line->ranks, line->tokens, line->limit, trial)
                                : attempt<Cpu>(line->ranks, line->tokens, line->limit, trial);
    if (!line->outcome.fits || line->outcome.bytes > line->limit || !std::isfinite(line->outcome.checksum))
      right = false;
    spent += line->outcome.seconds;
    if (line->ran && !line->dense) per_flop = line->outcome.seconds / work(double(line->tokens));
  }
  progress.finish();

  double const dense = double(lines.front().tokens), mib = 1 << 20;
  std::printf("One decoder layer, width %d, %d heads, causal, fp32, forward + backward, without its weights\n",
              int(width), int(heads));
  std::printf("%-10s %6s %14s %14s %9s %9s  %s\n", "", "ranks", "MiB per rank", "MiB in use", "tokens", "x dense",
              "forward + backward");
  example::Plot::Points ring_points, dense_points, one_dense;
  for (Line const& line : lines) {
    char time[32];
    std::snprintf(time, sizeof time, "%.2f s", line.outcome.seconds);
    std::printf("%-10s %6d %14.1f %14.1f %9lld %9.1f  %s\n", line.scheme.c_str(), line.ranks, double(line.limit) / mib,
                double(line.outcome.bytes) / mib, static_cast<long long>(line.tokens), double(line.tokens) / dense,
                line.ran ? time : "allocated and touched");
    double const p = double(line.limit) / double(budget) * line.ranks;
    (line.dense ? dense_points : ring_points).push_back({p, double(line.tokens)});
    if (line.dense) one_dense.push_back({p, dense});
  }
  example::Plot("Longest sequence in " + std::to_string(budget >> 20) + " MiB per rank",
                {.label = "ranks P", .log = true, .base = 2}, {.label = "tokens", .log = true, .base = 2})
      .line("ring of P", ring_points, {.markers = true})
      .line("dense, P times the memory", dense_points, {.markers = true})
      .line("dense", one_dense, {.dashed = true})
      .note("One decoder layer, forward + backward, fp32, width 512; measured by allocating")
      .write(svg);
  std::printf("A ring of one keeps no blocks under way; from two on the sequence grows with the ranks. plot: %s\n",
              svg.c_str());

  // The ring grows with P; dense with the square root of the memory.
  for (Line const& line : lines) {
    double const factor = double(line.limit) / double(budget);
    if (line.dense && double(line.tokens) > dense * (std::sqrt(factor) + 0.5 * factor)) right = false;
    if (!line.dense && line.ranks > 2) {
      double const two = double(lines[size_t(most_ranks) + 1].tokens);
      right = right && std::abs(double(line.tokens) / (two * line.ranks / 2) - 1) < 0.03;
    }
  }
  if (!right) std::printf("WRONG: see above\n");
  return right ? 0 : 1;
}
